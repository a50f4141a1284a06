-- performer/repl/path.lua: what a chain of names in a text means, without calling anything that a
-- user wrote: for completion and help, which look and must not act.
local core = require "performer.core"

local path = {}

--- The methods of a value by its class, or nil.
function path.methods(value)
  local kind = core.kind(value)
  if kind == "string" then return string end
  local ok, methods = pcall(core.methods, "performer." .. kind)
  if ok and type(methods) == "table" then return methods end
  local meta = debug.getmetatable(value)
  local index = type(meta) == "table" and rawget(meta, "__index")
  return type(index) == "table" and index or nil
end

--- A field, found in tables and in the tables behind them.
function path.field(value, key)
  for _ = 1, 20 do
    if value == nil then return nil end
    if type(value) ~= "table" then
      local methods = path.methods(value)
      return methods and rawget(methods, key) or nil
    end
    local found = rawget(value, key)
    if found ~= nil then return found end
    local meta = debug.getmetatable(value)
    value = type(meta) == "table" and rawget(meta, "__index") or nil
    if type(value) == "function" then return nil end
  end
end

--- Where the chain that ends at words[last] begins: `a.b[1].c`, `a.b:c`, `"text"`.
local function chain_start(words, last)
  local i = last
  while i >= 1 do
    local word = words[i]
    if word.text == "]" and words[i - 1] and words[i - 2] and words[i - 2].text == "[" then
      i = i - 3
    elseif word.kind == "name" or word.kind == "string" then
      local before = words[i - 1]
      if word.kind == "string" or not before or (before.text ~= "." and before.text ~= ":") then
        return i
      end
      i = i - 2
    elseif word.text == ")" and words[i - 2] and words[i - 2].text == "(" then
      return words[i - 1].kind == "string" and i - 2 or nil -- ("text"):
    else
      return nil
    end
  end
end

path.start = chain_start

local function literal(word)
  local make = load("return " .. word.text, "=", "t", {})
  return make and make()
end

--- The value of the chain of words that ends at words[last], and of its part before a last `:`;
--- nil where it has none.
function path.value(words, last, environment)
  local at = chain_start(words, last)
  if not at then return nil end
  local value, owner
  if words[at].text == "(" then return literal(words[at + 1]) end
  if words[at].kind == "string" then
    value = literal(words[at])
  else
    value = path.field(environment, words[at].text)
  end
  local i = at + 1
  while i <= last and value ~= nil do
    owner = nil
    if words[i].text == "[" then
      local key = literal(words[i + 1])
      local ok, found = pcall(function()
        return type(value) == "table" and path.field(value, key) or
          type(value) == "userdata" and value[key] or nil
      end)
      value = ok and found or nil
      i = i + 3
    else
      if words[i].text == ":" then owner = value end
      local methods = words[i].text == ":" and type(value) ~= "table" and path.methods(value)
      value = methods and rawget(methods, words[i + 1].text)
        or path.field(value, words[i + 1].text)
      i = i + 2
    end
  end
  return value, owner
end

return path
