--- performer/plain.lua: plain data as bytes, for ranks that tell each other of it: nothing,
-- booleans, numbers, texts and tables of these. Unlike JSON it keeps whatever bytes a text has (the
-- names of files are bytes), numbers that are no numbers or without end, and what is a key.
local core = require "performer.core"
local util = require "performer.util"

local plain = {}

local DEEPEST = 100

local write

local function write_table(t, add, depth)
  if getmetatable(t) then util.fail("ranks: a %s is no plain data", core.kind(t)) end
  if depth == DEEPEST then
    util.fail("ranks: tables %d deep, or one that is in itself, are no plain data", DEEPEST)
  end
  local n = 0
  for _ in next, t do n = n + 1 end
  add(("<c1j"):pack("{", n))
  for key, value in next, t do
    write(key, add, depth + 1)
    write(value, add, depth + 1)
  end
end

function write(value, add, depth)
  local kind = math.type(value) or type(value)
  if value == nil then add "n"
  elseif value == core.json.null then add "0"
  elseif kind == "boolean" then add(value and "t" or "f")
  elseif kind == "integer" then add(("<c1j"):pack("i", value))
  elseif kind == "float" then add(("<c1d"):pack("d", value))
  elseif kind == "string" then add(("<c1s8"):pack("s", value))
  elseif kind == "table" then write_table(value, add, depth)
  else util.fail("ranks: a %s is no plain data", core.kind(value)) end
end

--- A value's bytes.
function plain.pack(value)
  local parts = {}
  write(value, function(text) parts[#parts + 1] = text end, 0)
  return table.concat(parts)
end

local FORMATS = { i = "<j", d = "<d", s = "<s8" }
local WORDS = { t = true, f = false, ["0"] = core.json.null }

--- The value whose bytes stand at `at` (1), and where the next one's begin.
function plain.unpack(text, at)
  at = at or 1
  local kind = text:sub(at, at)
  if FORMATS[kind] then return FORMATS[kind]:unpack(text, at + 1) end
  if kind ~= "{" then return WORDS[kind], at + 1 end
  local t, n = {}, ("<j"):unpack(text, at + 1)
  at = at + 9
  for _ = 1, n do
    local key, value
    key, at = plain.unpack(text, at)
    value, at = plain.unpack(text, at)
    t[key] = value
  end
  return t, at
end

return plain
