-- performer/repl/calls.lua: which function of the reference a call in a text is of, and what class
-- of value it gives, by what the reference says: nothing is called to find out.
local core = require "performer.core"
local path = require "performer.repl.path"
local reference = require "performer.repl.reference"
local show = require "performer.repl.show"

local calls = {}

local OPENS = { ["{"] = true, ["("] = true, ["["] = true }
local CLOSES = { ["}"] = true, [")"] = true, ["]"] = true }

-- What a model is told beside its input, and what it gives.
local MODEL = { name = "Module:call", parameters = { { name = "pass", kind = "pf.Pass" } },
                result = "pf.Tensor" }

local function sign(word) return word and word.kind == "sign" and word.text end

--- How much deeper in brackets it is behind a word than before it: 1, 0 or -1.
function calls.step(word)
  local text = sign(word)
  return OPENS[text] and 1 or CLOSES[text] and -1 or 0
end

--- The index of the bracket that is open behind words[last]; nil: none is.
function calls.open(words, last)
  local depth = 0
  for i = last, 1, -1 do
    depth = depth + calls.step(words[i])
    if depth > 0 then return i end
  end
end

--- The name of a class in the reference: "Tensor".
function calls.class_name(value)
  local kind = core.kind(value)
  return kind:sub(1, 1):upper() .. kind:sub(2)
end

--- The entry of the function whose name ends at words[last].
function calls.entry(words, last, environment)
  local known = reference.get().functions
  local value, owner = path.value(words, last, environment)
  if owner ~= nil then return known[calls.class_name(owner) .. ":" .. words[last].text] end
  if value ~= nil then
    if core.kind(value) == "module" then return MODEL end
    return known[type(value) == "function" and show.name(value) or ""]
  end
  local class = sign(words[last - 1]) == ":" and calls.class(words, last - 2, environment)
  return class and known[class .. ":" .. words[last].text] or nil -- f():method
end

--- The class of what the call that ends at words[last] gives: "Tensor"; nil: that is not known.
function calls.class(words, last, environment)
  if not words[last] or (sign(words[last]) ~= ")" and sign(words[last]) ~= "}") then return nil end
  local from = calls.open(words, last - 1)
  local entry = from and from > 1 and calls.entry(words, from - 1, environment)
  return entry and entry.result and entry.result:match "^pf%.(%u%w*)" or nil
end

--- The entry of the function that the table which opens at words[brace] is an argument of.
function calls.around(words, brace, environment)
  local before = sign(words[brace - 1])
  if before ~= "(" and before ~= "," then return calls.entry(words, brace - 1, environment) end
  local from = calls.open(words, brace - 1) -- f(a, b, {
  if not from or sign(words[from]) ~= "(" then return nil end
  return calls.entry(words, from - 1, environment)
end

return calls
