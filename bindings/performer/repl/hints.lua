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

-- Values that other languages write so: in Lua they are names without a value, and so nil.
local VALUES = { True = "true", False = "false", None = "nil", null = "nil", NULL = "nil" }

--- A name that was read for a value of another language.
local function of_value(list, environment)
  for i, word in ipairs(list) do
    local meant = word.kind == "name" and VALUES[word.text]
    local before, behind = list[i - 1], list[i + 1]
    if meant and environment[word.text] == nil and not (before and before.text:find "^[.:]$")
      and not (behind and behind.text == "=") then
      return ("%s is a name here, without a value; it is %s"):format(word.text, meant)
    end
  end
end

--- A function that is shown: a method that was meant to be called; or a name that was read for a
--- value.
function hints.of_results(results, text, environment)
  local told = of_value(chunk.words(text), environment)
  if told then return told end
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
  if name == "f" and text:find "%f[%w_]f[\"']" then return '; it is ("%d"):format(x)' end
  local part = text:match("%f[%w_]" .. name .. "%s*%.%s*([%a_][%w_]*)")
  local meant = help.of_library(name, part) or rawget(words.globals, name)
  if meant then return "; " .. meant end
  local near = help.near(name, { environment, _G })
  return near and near ~= name and (" (did you mean '%s'?)"):format(near) or nil
end

-- ---- values ------------------------------------------------------------------------------

--- Arithmetic with texts, as others join and fill them; tensors where Lua takes others.
local function of_values(message)
  if message:find "attempt to mod a 'string'" then return '; it is ("%d"):format(x)' end
  if message:find "attempt to add a 'string'" or message:find "attempt to add a .* 'string'" then
    return "; texts are joined by .."
  end
  if message:find "number expected, got performer.tensor" then
    return "; t:item() is the number of a tensor with one"
  end
  if message:find "nil value %(field 'getn'%)" then return "; it is #t" end
  if message:find "attempt to concatenate a performer.tensor" then
    return "; it is tostring(t), or t:item() of one number"
  end
  if message:find "attempt to call a performer.tensor value %(for iterator" then
    return "; it is for i = 1, #t do local row = t[i] ... end"
  end
end

--- What stands behind the message of an error, or "".
function hints.of_error(message, text, environment)
  return of_global(message, text, environment) or of_dot(message, text, environment)
    or of_values(message) or ""
end

-- ---- another language's grammar -----------------------------------------------------------

local RANGE = "it is t[{ {1, 2}, 1 }], where {} is all of a dimension; positions count from 1"

-- Patterns of what was typed without its texts, and what Lua says for it; in a script, where that
-- is another thing.
local GRAMMAR = {
  { "^import%s", "pf and nn are there; local m = require 'm' loads a file m.lua",
    "it is local pf = require \"performer\"" },
  { "^from%s+[%w_.]+%s+import", "pf and nn are there", "it is local pf = require \"performer\"" },
  { "^def%s", "it is function f(x) ... end" },
  { "^class%s", "a layer of one's own is nn.module { forward = f }" },
  { "^with%s", "gradients are recorded under local tape <close> = pf.tape() alone" },
  { "^try%s*:", "it is ok, message = pcall(f)" },
  { "^raise%s", "it is error(message)" },
  { "^assert%s", "it is assert(x == 3, message)" },
  { "^del%s", "it is x = nil" },
  { "^elif%s", "it is elseif x then" },
  { "^for%s.*%sin%s+range%s*%(", "it is for i = 1, n do ... end" },
  { "^for%s.*%sin%s.*:", "it is for key, value in pairs(t) do ... end" },
  { "^if%s.*[:{]", "it is if x then ... end" },
  { "^while%s.*[:{]", "it is while x do ... end" },
  { "^let%s", "it is local x = 1" }, { "^var%s", "it is local x = 1" },
  { "^auto%s", "it is local x = 1" }, { "^const%s", "it is local x = 1" },
  { "%f[%w_]lambda[%s:]", "it is function(x) return x end" },
  { "[%w_%]]%s*[+*/-]=", "it is x = x + 1" },
  { "[%w_%]]%+%+", "it is x = x + 1" },
  { "!=", "it is a ~= b" },
  { "&&", "it is a and b" },
  { "||", "it is a or b" },
  { "%sis%s", "it is x == nil, or x ~= nil" },
  { "[%w_%)%]]%s?@%s?[%w_(]", "it is a:matmul(b)" },
  { "[%w_%)%]]%s?%*%*%s?[%w_(-]", "it is x ^ y" },
  { "[%w_%)%]]%s?%?%s?[%w_(].*:", "it is a and b or c" },
  { "%sif%s.*%selse%s", "it is a and b or c" },
  { "^#", "a comment begins with --" }, { "^//", "a comment begins with --" },
  { "^!", "it is os.execute(command)" },
  { "%w%s*%[[^%]]*[:,][^%]]*%]", RANGE },
  { "%[[^%]]*,[^%]]*%]", "a list is { 1, 2, 3 }" },
  { ":%s?repeat%s?%(", "it is t:tile(2, 1)" },
  { "^print%s+[%w_]", "it is print(x), or x alone", "it is print(x)" },
}

--- What stands behind the complaint of a text that is no Lua, or "". script: it is of one.
function hints.of_text(text, script)
  local list, parts = chunk.words(text), {}
  for i, word in ipairs(list) do
    local before = list[i - 1]
    local apart = before and before.last + 1 < word.from and " " or ""
    parts[i] = apart .. (word.kind == "string" and '""' or word.text)
  end
  local bare = table.concat(parts)
  for _, row in ipairs(GRAMMAR) do
    if bare:find(row[1]) then return "; " .. (script and row[3] or row[2]) end
  end
  return ""
end

-- ---- scripts -------------------------------------------------------------------------------

--- Line n of a text, or of a file; "" where that is not to be had.
local function line_of(text, file, n)
  if not text then
    local stream = io.open(file)
    text = stream and stream:read(100000)
    if stream then stream:close() end
  end
  for line in ((text or "") .. "\n"):gmatch "(.-)\r?\n" do
    n = n - 1
    if n == 0 then return line end
  end
  return ""
end

--- The message of what ended a script, with what may have been meant. text: of the script, where
--- no file has it.
function hints.of_script(message, text)
  local file, n, told = message:match "^(.-):(%d+): (.*)$"
  if not file then return message end
  local name = told:match "^module '([%w_]+)' not found:"
  if name and (rawget(words.libraries, name) or name == "nn") then
    return (message:gsub(" not found:", " not found; it is local pf = require \"performer\":", 1))
  end
  name = told:match "global '(%l+)'"
  if name == "pf" or name == "nn" then
    return message .. (name == "pf" and "; it is local pf = require \"performer\""
      or "; it is local nn = require(\"performer\").nn")
  end
  local line = line_of(text, file, tonumber(n))
  if line:find "[%z\1-\8\14-\31\127]" then return message end -- no text of anybody's
  if told:find " near " then return message .. hints.of_text(line, true) end
  return message .. (of_global(told, line, _G) or of_values(told) or "")
end

return hints
