--- engine.lua - the engine as commands open it: the rows of --threads and --memory, and its
-- complaints of them in the words of the command line.
local cli = require "kit.cli"
local pf = require "performer"
local ranks = require "kit.ranks"

local engine = {}

local function row_of(row, more)
  for key, value in pairs(more or {}) do row[key] = value end
  return row
end

--- The row of --threads, and that of --memory; `more` is set in it (group).
function engine.threads(more)
  return row_of({ "threads", "positive", nil, "threads (default: all cores)", own = true }, more)
end

function engine.memory(more)
  return row_of({ "memory", "bytes", nil, "byte budget, such as 4G", own = true }, more)
end

-- A host must know that memory is still in use by a lost talk; a command is about to end.
local OF_HOSTS <const> = "under way in .* end this process soon"

--- What the engine warns of, where there are several ranks: of data and folders rank 0 says the
-- same as the others, of the ranks each may be the only one to know.
local function say_of_ranks(_, message)
  if message:find(OF_HOSTS) or not ranks.first() and not message:find "^ranks:" then return end
  io.stderr:write("performer: ", message, "\n")
end

--- Opens the engine as options (threads, memory, seed) say, or ends the command.
function engine.open(options)
  local ok, message = pcall(pf.open, { threads = options.threads or ranks.threads(),
                                       memory = options.memory, seed = options.seed,
                                       log = ranks.several() and say_of_ranks or nil })
  if ok then return end
  local name, most = tostring(message):match "options%.(%l+) is %-?%d+, must be %d+ to (%d+)"
  if name then
    cli.fail(2, ("--%s must be a whole number from 1 to %s, got %d"):format(name, most,
      options[name]))
  end
  cli.try(2, error, message, 0)
end

return engine
