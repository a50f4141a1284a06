--- advice.lua - what to do about a message of the engine's or of the outside world that only says
-- what is wrong.
--
-- What must hold: an option that is named here is one of the command that runs, and can be given
-- where it stands.
local advice = {}

--- What to do by a pattern that the message fits: the first one counts. One that begins with a
-- blank is cut off.
local ADVICE = {
  { "No such file or directory$", "check the path" },
  { "Permission denied$", "choose a place that you may read and write" },
  { "Not a directory$", "a part of the path is a file: choose another one" },
  { "File exists$", "choose another name" },
  { "Read%-only file system$", "choose another place" },
  { "Is a directory$", "name a file in it" },
  { "No space left on device$", "make room" },
  { "File too large$", "raise the limit on file sizes (ulimit -f)" },
  { "Disk quota exceeded$", "make room" },
  { "the file is empty$", "give a FASTA or text file that holds something" },
  { "^tokenizer: .* is no amino%-acid letter$", "write amino acids as their letters" },
  { "no safetensors file", "performer inspect reads checkpoint folders and .safetensors files" },
  { "%(checksum differs%)$", "copy it again, or name another step-N of the run" },
  { "gradient of .* is not finite .*changed$", "try a lower --lr" },
  { " %(option min_tokens%)$", "give more text" },
}

-- ---- memory ----

-- With, and without a budget; of data that are read it may be the half of the machine's.
local SCARCITY = "out of memory: asked .*%f[%w]budget ?(%d*)"
local DATA, HALF = ": no room for it after %d+ bytes: ", " %(half of this machine's memory%)$"

-- What makes a command take less, where it has such an option.
local LESS = { "batch", "length", "block", "count" }

local options = {} -- "--name" of the command that runs
local lower        -- set by advice.lower; nil: as the options have it

--- Says which options the command that runs has: a set of "--name".
function advice.command(known) options = known end

--- Says what makes what is under way take less memory: f(budget) -> "lower --dim or --layers", or
-- nil: nothing does; budget: in bytes, nil: there is none. Without f it is told by the options.
function advice.lower(f) lower = f end

--- Is this the engine's complaint that memory, or --memory, does not suffice?
function advice.is_scarcity(message)
  return message:find(SCARCITY .. "$") ~= nil or message:find(SCARCITY .. HALF) ~= nil
end

--- { "--a", "--b", "--c" } as "--a, --b or --c".
function advice.either(names)
  return (table.concat(names, ", "):gsub(", ([^,]+)$", " or %1"))
end

--- The same with "and".
function advice.all(names) return (table.concat(names, ", "):gsub(", ([^,]+)$", " and %1")) end

local function less()
  local has = {}
  for _, name in ipairs(LESS) do has[#has + 1] = options["--" .. name] and "--" .. name or nil end
  return #has > 0 and "lower " .. advice.either(has) or nil
end

--- What to do where memory does not suffice.
local function about_memory(message)
  local budget = tonumber(message:match(SCARCITY))
  local raise = message:find(HALF) and "set --memory" or "raise --memory"
  local parts = { budget and options["--memory"] and raise or nil }
  if message:find(DATA) then
    parts[#parts + 1] = "give less data, or make shards of it (performer shard)"
  elseif lower then
    parts[#parts + 1] = lower(budget)
  else
    parts[#parts + 1] = less()
  end
  return #parts > 0 and table.concat(parts, ", or ") or "it takes a machine with more memory"
end

--- `message` with what to do, unless it has been said.
function advice.advise(message)
  if advice.is_scarcity(message) then return message .. "; " .. about_memory(message) end
  for _, entry in ipairs(ADVICE) do
    local first = message:find(entry[1])
    if first and entry[1]:sub(1, 1) == " " then message = message:sub(1, first - 1) end
    if first then return message .. "; " .. entry[2] end
  end
  return message
end

return advice
