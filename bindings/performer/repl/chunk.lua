-- performer/repl/chunk.lua: what was typed, as Lua: its words, whether it goes on, and the function
-- that it is. Expressions need no `return` and no `=`.
--
-- A `local` of the outermost level would be gone with its line. Here it is a name of the session:
-- the word is left out, so that the statement sets a field of the environment that all lines share,
-- and functions typed before and after see one variable. Lines and their numbers stay.
local chunk = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch "%a+" do KEYWORDS[word] = true end
chunk.keywords = KEYWORDS

-- ---- words -------------------------------------------------------------------------

--- The end of the long bracket that opens at `at`; nil: it doesn't open, false: it doesn't end.
local function long_end(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return last or false
end

--- The end of a quoted text; false: it doesn't end on its line.
local function quoted_end(text, at)
  local quote, i = text:sub(at, at), at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == quote then return i end
    if c == "\n" then return false end
    if c == "\\" then
      local blank = select(2, text:find("^z%s*", i + 1))
      i = blank or i + 1
    end
    i = i + 1
  end
  return false
end

--- Kind and end of the word at `at`, which is no blank.
local function word_at(text, at)
  local two = text:sub(at, at + 1)
  if two == "--" then
    local last = long_end(text, at + 2)
    if last == nil then last = (text:find("\n", at, true) or #text + 1) - 1 end
    return last and "comment" or "open", last or #text
  end
  local last = long_end(text, at)
  if last ~= nil then return last and "string" or "open", last or #text end
  if text:find("^[\"']", at) then
    last = quoted_end(text, at)
    return last and "string" or "open", last or (text:find("\n", at, true) or #text + 1) - 1
  end
  local name = text:match("^[%a_][%w_]*", at)
  if name then return KEYWORDS[name] and "keyword" or "name", at + #name - 1 end
  if text:find("^%.?%d", at) then
    local number = text:match("^0[xX][%x%.]*[pP][+-]?%x*", at) or text:match("^0[xX][%x%.]*", at)
      or text:match("^[%d%.]+[eE][+-]?%d*", at) or text:match("^[%d%.]+", at)
    return "number", at + #number - 1
  end
  local sign = text:match("^%.%.%.?", at) or text:match("^[=~<>]=", at) or text:match("^::", at)
    or text:match("^[<>/]", at)
  return "sign", at + (sign and #sign or 1) - 1
end

--- The words of a text as { kind, text, from, last }, without comments. Kinds: name, keyword,
--- number, string, sign, and "open": a text, quote or comment that doesn't end.
function chunk.words(text)
  local list, at = {}, 1
  while true do
    at = text:find("%S", at)
    if not at then return list end
    local kind, last = word_at(text, at)
    if kind ~= "comment" then
      list[#list + 1] = { kind = kind, text = text:sub(at, last), from = at, last = last }
    end
    at = last + 1
  end
end

-- ---- names of the outermost level ---------------------------------------------------

local OPENS = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }

--- Names of a `local` whose first word is words[i]; puts blanks for what only locals have.
local function take_names(words, i, blank, found)
  local last
  while words[i] and words[i].kind == "name" do
    local name = words[i].text
    found.names[#found.names + 1] = name
    last = words[i]
    i = i + 1
    if words[i] and words[i].text == "<" and words[i + 2] then
      if words[i + 1].text == "close" then found.closing[#found.closing + 1] = name end
      blank(words[i].from, words[i + 2].last)
      i = i + 3
    end
    if not (words[i] and words[i].text == ",") then break end
    i = i + 1
  end
  return last, words[i] and words[i].text == "="
end

--- The text with its outermost `local`s made names of the environment; their names, and those of
--- them that are <close>.
function chunk.open_locals(text)
  local words, depth = chunk.words(text), 0
  local found, cuts = { names = {}, closing = {} }, {}
  local function blank(from, last)
    cuts[#cuts + 1] = { from, last, (text:sub(from, last):gsub("[^\n]", " ")) }
  end
  for i, word in ipairs(words) do
    if word.kind == "keyword" and OPENS[word.text] then depth = depth + 1 end
    if word.kind == "keyword" and CLOSES[word.text] then depth = depth - 1 end
    local behind = words[i + 1]
    if word.text == "local" and word.kind == "keyword" and depth == 0 and behind then
      blank(word.from, word.last)
      if behind.text == "function" then
        found.names[#found.names + 1] = words[i + 2] and words[i + 2].text
      else
        local last, given = take_names(words, i + 1, blank, found)
        if last and not given then
          cuts[#cuts + 1] = { last.from, last.last, last.text .. " = nil" }
        end
      end
    end
  end
  table.sort(cuts, function(a, b) return a[1] > b[1] end)
  for _, cut in ipairs(cuts) do text = text:sub(1, cut[1] - 1) .. cut[3] .. text:sub(cut[2] + 1) end
  return text, found
end

-- ---- compiling ---------------------------------------------------------------------

local function goes_on(message)
  return message:find "near '?<eof>'?$" ~= nil
end

--- Which of the complaints tells the mistake: of a statement, unless it was none from its first
--- word on, or only an expression where one should be.
local function clearer(text, of_expression, of_statement)
  local first = chunk.words(text)[1]
  local near = " near '" .. (first and first.text or "") .. "'"
  local is_none = of_statement:find(near, -#near, true) or of_statement:find ": syntax error near"
  local is_other = of_expression:find "<eof>'? expected" or of_expression:find(near, -#near, true)
  return is_none and not is_other and of_expression or of_statement
end

--- "x = 1; x" as a statement that gives the value of what stands behind its last semicolon.
local function value_behind(text)
  local words = chunk.words(text)
  for i = #words - 1, 1, -1 do
    local at = words[i].text == ";" and words[i].from
    local rest = at and text:sub(at + 1)
    if at then return not rest:find "\n" and text:sub(1, at) .. " return " .. rest or nil end
  end
end

--- The function that a text is, in the environment, and { names, closing }; or nil, what is wrong,
--- and whether more of it would help.
function chunk.compile(text, name, environment)
  text = text:gsub("^%s*=", " ", 1)
  local expression, of_expression = load("return " .. text, name, "t", environment)
  if expression then return expression, { names = {}, closing = {} } end
  local statement, of_statement = load(text, name, "t", environment)
  local valued = not statement and value_behind(text)
  if valued and load(valued, name, "t", environment) then
    text, statement = valued, true
  end
  if statement then
    local opened, found = chunk.open_locals(text)
    statement = load(opened, name, "t", environment)
    if statement then return statement, found end
    return load(text, name, "t", environment), { names = {}, closing = {} } -- as Lua has it
  end
  return nil, clearer(text, of_expression, of_statement),
    goes_on(of_expression) or goes_on(of_statement)
end

return chunk
