--- data_options.lua - what commands that read data have in common: their options, opening what
-- they name in one go, complaints in the words of the command line, and the length of rows.
local cli = require "kit.cli"
local pf = require "performer"
local ranks = require "kit.ranks"

local data_options = {}

--- The rows of --data, --format and --skip-bad; `more` is set in each (group, keep).
function data_options.rows(help, more)
  local rows = {
    { "data", "file", nil, help .. ", plain or gzip, or - for the standard input", own = true },
    { "format", { "auto", "fasta", "text" }, "auto",
      "what the data are; auto: FASTA if the first record line begins with '>', else text" },
    { "skip-bad", "flag", nil,
      "leave out records with letters that are no amino acids, and count them" },
  }
  for _, row in ipairs(rows) do
    for key, value in pairs(more or {}) do row[key] = value end
  end
  return rows
end

-- ---- opening ----

--- 'xz -dc', on `path`, as a pipe into `performer COMMAND`, which may have options. `commands` are
-- in single quotes.
local function pipeline(commands, command, path)
  local parts = {}
  for one in commands:gmatch "'([^']+)'" do parts[#parts + 1] = one end
  if path ~= "-" and path ~= "/dev/stdin" then parts[1] = parts[1] .. " " .. cli.quote(path) end
  parts[#parts + 1] = cli.called("performer " .. command) .. " --data -"
  return table.concat(parts, " | ")
end

--- The engine's message, whose options are written as in Lua, for who types a command.
local function as_typed(message, command, path)
  message = message:gsub('format = "(%a+)"', "--format %1"):gsub("skip_bad = true", "--skip-bad")
    :gsub('split = "(%a+)"', "--split %1")
    :gsub("%l+: '([%l_]+)' must be ", function(name)
      return ("%s: --%s must be "):format(command:match "^%l+", (name:gsub("_", "-")))
    end)
  local before, commands = message:match "^(.* first) %(('.*')%)$"
  if not before then return message end
  return ("%s: %s"):format(before, pipeline(commands, command, path))
end

--- The same of a file that is another option's: the message says whose it is.
local function of_valid(message, valid)
  local paths = type(valid) == "table" and valid or { valid }
  for _, path in ipairs(paths) do
    if message:sub(1, #path + 1) == path .. ":" then return "--valid " .. message end
  end
  return message
end

-- What options of the command line say of data, beside --data.
local SAID = { "format", "skip_bad", "valid", "valid_fraction" }

--- The standard input is rank 0's alone, and every rank that has opened reads the data for itself.
local function check_input(command, paths)
  if not ranks.here() or not ranks.several() then return end
  for _, path in ipairs(type(paths) == "table" and paths or { paths }) do
    if path == "-" or path == "/dev/stdin" then
      cli.fail(2, ("%s: rank 0 alone has the standard input, and every rank reads the data; name a "
        .. "file that all hosts have at the same path"):format(command:match "^%l+"))
    end
  end
end

--- make(options of the engine), or the end of `command`; `more` has further ones.
local function open_with(make, command, options, more)
  local all = { path = options.data }
  for _, name in ipairs(SAID) do all[name] = options[name] end
  for name, value in pairs(more or {}) do all[name] = value end
  local path = type(options.data) == "table" and options.data[1] or options.data
  check_input(command, options.data)
  check_input(command, options.valid)
  local called, set, message = pcall(make, all)
  if not called and type(set) == "string" then
    local range = set:find "' must be " -- of an option
    cli.try(range and 2 or 1, error, of_valid(as_typed(set, command, path), options.valid), 0)
  end
  if not called then error(set, 0) end
  if not set then
    cli.fail(1, cli.advise(of_valid(as_typed(message, command, path), options.valid)))
  end
  return set
end

--- The data set that options (data and valid, each a path or a list of them; format, skip_bad ...)
-- name, or the end of `command`; `more` has further options of pf.data.open.
function data_options.open(command, options, more)
  return open_with(pf.data.open, command, options, more)
end

--- The shards that the same options make in options.out, opened.
function data_options.shard(command, options)
  return open_with(pf.data.shard, command, options, { out = options.out, block = options.block })
end

-- ---- rows ----

--- The longest row that a split fills: all of its tokens.
function data_options.longest_row(data, split)
  local info = data:info(split)
  return info.tokens + (info.format == "fasta" and info.documents or 0)
end

-- What the engine calls a size that is an option here.
local SIZES = { row = "--length", batch = "--batch" }

--- f(...), whose complaint of a size is misuse, in the words of the command line; any other
-- complaint ends the command with `code`.
function data_options.try(code, f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local size, got, least, most = tostring(results[2])
    :match "data: an? (%l+) of (%d+) %l+; from (%d+) to (%d+) are possible"
  if size then
    cli.fail(2, ("%s must be a whole number from %s to %s, got %s"):format(SIZES[size], least, most,
      got))
  end
  cli.try(code, error, results[2], 0)
end

--- Lays rows of `length`, which the user chose.
function data_options.lay(data, length) return data_options.try(2, data.lay, data, length) end

-- ---- tokens ----

--- The row of --tokenizer.
data_options.TOKENIZER = { "tokenizer", { "byte", "protein" }, nil,
                           "what the tokens of a checkpoint are that does not say" }

--- The tokenizer's name: `name`, which the checkpoint was saved with, or what --tokenizer says;
-- else the end of `command`.
function data_options.tokenizer_name(command, name, options)
  local asked = options.tokenizer
  if name and asked and name ~= asked then
    cli.fail(2, ("%s: %s was saved with the %s tokenizer; leave out --tokenizer %s"):format(
      command, options.checkpoint, name, asked))
  end
  if not name and not asked then
    cli.fail(1, ("%s: %s has no tokenizer saved, so what its tokens stand for is not known; say "
      .. "--tokenizer byte or --tokenizer protein"):format(command, options.checkpoint))
  end
  return name or asked
end

return data_options
