-- performer/repl/hints.lua: what somebody may have meant who comes from another language or
-- library, by what was typed and what came of it.
local chunk = require "performer.repl.chunk"
local help = require "performer.repl.help"
local path = require "performer.repl.path"
local words = require "performer.words"

local hints = {}

-- ---- methods with a dot ----------------------------------------------------------------

--- "x:sum()" where list[i] is the name of a method, behind a dot and a value that has it; or nil.
local function with_colon(text, list, i, environment)
  local first = list[i - 1].text == "." and list[i].kind == "name" and path.start(list, i - 2)
  local value = first and path.value(list, i - 2, environment)
  local methods = type(value) == "userdata" and path.methods(value)
  if not methods or rawget(methods, list[i].text) == nil then return nil end
  return ("%s:%s()"):format(text:sub(list[first].from, list[i - 2].last), list[i].text)
end

--- A function that is shown: a method that was meant to be called.
function hints.of_results(results, text, environment)
  if results.n ~= 1 or type(results[1]) ~= "function" then return nil end
  local list = chunk.words(text)
  local call = #list > 2 and with_colon(text, list, #list, environment)
  return call and ("a method is called, with a colon: %s"):format(call) or nil
end

--- A method that got nothing to work on: "x.sum()".
local function of_dot(message, text, environment)
  local lacks = message:find "is missing" or message:find "is needed" or message:find "got no value"
  local list = chunk.words(lacks and text or "")
  for i, word in ipairs(list) do
    local call = word.text == "(" and i > 3 and with_colon(text, list, i - 1, environment)
    if call then return "; a method is called with a colon: " .. call end
  end
end

-- ---- names of other libraries ------------------------------------------------------------

--- A global that has no value.
local function of_global(message, text, environment)
  local name = message:find "nil value" and message:match "global '([%w_]+)'"
  if not name then return nil end
  local part = text:match("%f[%w_]" .. name .. "%s*%.%s*([%a_][%w_]*)")
  local meant = help.of_library(name, part) or rawget(words.globals, name)
  if meant then return "; " .. meant end
  local near = help.near(name, { environment, _G })
  return near and near ~= name and (" (did you mean '%s'?)"):format(near) or nil
end

--- What stands behind the message of an error, or "".
function hints.of_error(message, text, environment)
  return of_global(message, text, environment) or of_dot(message, text, environment) or ""
end

-- ---- another language's grammar -----------------------------------------------------------

-- Patterns of what was typed without its texts, and what Lua says for it.
local GRAMMAR = {
  { "^import%s", "pf and nn are there; local m = require 'm' loads a file m.lua" },
  { "^from%s+[%w_.]+%s+import", "pf and nn are there" },
  { "^def%s", "it is function f(x) ... end" },
  { "^for%s.*%sin%s+range%s*%(", "it is for i = 1, n do ... end" },
  { "[%w_%]]%s*[+*/-]=", "it is x = x + 1" },
  { "!=", "it is a ~= b" },
  { "&&", "it is a and b" },
  { "||", "it is a or b" },
  { "%w%s*%[[^%]]*[:,][^%]]*%]", "it is t:slice(dim, first, last), or t[i][j]" },
  { "^print%s+[%w_]", "it is print(x), or x alone" },
}

--- What stands behind the complaint of a text that is no Lua, or "".
function hints.of_text(text)
  local list, parts = chunk.words(text), {}
  for i, word in ipairs(list) do
    local before = list[i - 1]
    local apart = before and before.last + 1 < word.from and " " or ""
    parts[i] = apart .. (word.kind == "string" and '""' or word.text)
  end
  local bare = table.concat(parts)
  for _, row in ipairs(GRAMMAR) do
    if bare:find(row[1]) then return "; " .. row[2] end
  end
  return ""
end

return hints
