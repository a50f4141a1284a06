--- values.lua - what an option's value may be: a converter for every kind of row that cli.add
-- takes, which gives the value, or nil and a complaint that names the option, what was typed and
-- what may stand there.
local cli_words = require "kit.cli_words"

local values = {}

local function same(n) return n end

--- Numbers from `least` on.
local function from(what, least, convert)
  return function(shown)
    return function(text)
      local number = tonumber(text)
      local n = convert(number)
      if n and n >= least and n < math.huge then return n end
      if number and number >= 2 ^ 63 then
        return nil, ("%s: %s is too large"):format(shown, text)
      end
      return nil, ("%s: '%s' is not a %s from %d"):format(shown, text, what, least)
    end
  end
end

--- A seed that a checkpoint holds: what a number of JSON is exact to.
local function seed(shown)
  local whole = from("whole number", 0, math.tointeger)(shown)
  return function(text)
    local n, why = whole(text)
    if not n or n <= 1 << 53 then return n, why end
    return nil, ("%s must be a whole number from 0 to %d, got %s"):format(shown, 1 << 53, text)
  end
end

local function signed(shown)
  return function(text)
    local n = tonumber(text)
    if n and n == n and math.abs(n) < math.huge then return n end
    return nil, ("%s: '%s' is not a number"):format(shown, text)
  end
end

--- A whole number of either sign: who takes it says from where to where.
local function integer(shown)
  return function(text)
    local number = tonumber(text)
    local n = math.tointeger(number)
    if n then return n end
    if number and math.abs(number) >= 2 ^ 63 then
      return nil, ("%s: %s is too large"):format(shown, text)
    end
    return nil, ("%s: '%s' is not a whole number"):format(shown, text)
  end
end

--- Bytes: a number of them, or of one of these units.
local UNITS = { K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }
local MOST = 1 << 62

local function bytes(shown)
  return function(text)
    local number, unit = text:match "^([%d.]+)([KMGTkmgt]?)[Bb]?$"
    local n = tonumber(number)
    if n then n = n * (UNITS[unit:upper()] or 1) end
    if n and n >= 1 and n <= MOST then return math.floor(n) end
    return nil, ("%s: '%s' is no amount of memory, such as 256M or 4G: a number of bytes from 1 "
      .. "on, or of K, M, G or T of them, up to %dT"):format(shown, text, MOST // UNITS.T)
  end
end

--- What names something is not empty; a text may be.
local function named(shown)
  return function(text)
    if text ~= "" then return text end
    return nil, ("%s: '' is empty; leave it out, or say which"):format(shown)
  end
end

--- A converter for one of `names`; shown: the option or argument as the user knows it.
function values.choice(shown, names)
  return function(word)
    for _, name in ipairs(names) do
      if name == word then return word end
    end
    return nil, ("%s must be one of '%s'; got '%s'%s"):format(shown, table.concat(names, "', '"),
      word, cli_words.value_hint(word, names))
  end
end

local KINDS = {
  bytes = bytes,
  integer = integer,
  whole = from("whole number", 0, math.tointeger),
  positive = from("whole number", 1, math.tointeger),
  number = from("number", 0, same),
  seed = seed,
  signed = signed,
  file = named, folder = named, list = named, name = named, path = named, pattern = named,
}

--- The converter of a row's kind for what the user knows as `shown`; nil: any text will do.
function values.converter(kind, shown)
  if type(kind) == "table" then return values.choice(shown, kind) end
  if kind == "switch" then return values.choice(shown, { "on", "off" }) end
  return KINDS[kind] and KINDS[kind](shown)
end

return values
