-- performer/repl/complete.lua: what can stand at the cursor: names, fields, methods behind `:`,
-- options of a call in its `{`, the words that an option may be, and files in quotes.
local chunk = require "performer.repl.chunk"
local calls = require "performer.repl.calls"
local core = require "performer.core"
local path = require "performer.repl.path"
local reference = require "performer.repl.reference"

local complete = {}

-- ---- candidates ---------------------------------------------------------------------

--- Adds texts of a table's keys that begin with the prefix; `suffix(value)` goes behind.
local function add_keys(found, t, prefix)
  for key in next, t do
    if type(key) == "string" and key:find "^[%a_][%w_]*$" and key:sub(1, #prefix) == prefix
      and not chunk.keywords[key] then
      found[key] = true
    end
  end
end

--- Fields of a value and of the tables behind it. Names with `_` in front only when asked for.
local function fields(value, prefix)
  local found = {}
  for _ = 1, 20 do
    if type(value) ~= "table" then break end
    add_keys(found, value, prefix)
    local meta = debug.getmetatable(value)
    value = type(meta) == "table" and rawget(meta, "__index") or nil
  end
  if prefix == "" then
    for key in pairs(found) do
      if key:sub(1, 1) == "_" then found[key] = nil end
    end
  end
  return found
end

local function methods(value, prefix)
  local found, list = {}, path.methods(value)
  if list then add_keys(found, list, prefix) end
  if type(value) == "table" then
    for key in pairs(fields(value, prefix)) do
      if type(path.field(value, key)) == "function" then found[key] = true end
    end
  end
  return found
end

local function names(environment, prefix)
  local found = {}
  for key in pairs(fields(environment, prefix)) do found[key] = true end
  for word in pairs(chunk.keywords) do
    if prefix ~= "" and word:sub(1, #prefix) == prefix then found[word] = true end
  end
  return found
end

--- What lists folders, or nil. Tab asks for it, not the user: a file of this name in the folder
--- that the prompt was called in does not run.
local function file_system()
  local lua_files, libraries = package.path, package.cpath
  local function absolute(templates)
    local kept = {}
    for template in templates:gmatch "[^;]+" do
      if template:sub(1, 1) == "/" then kept[#kept + 1] = template end
    end
    return table.concat(kept, ";")
  end
  package.path, package.cpath = absolute(lua_files), absolute(libraries)
  local ok, lfs = pcall(require, "lfs")
  package.path, package.cpath = lua_files, libraries
  return ok and lfs or nil
end

--- Files that begin with what is typed; folders end in a slash. Only where a list can be had.
local function files(typed)
  local found, lfs = {}, file_system()
  if not lfs then return found end
  local folder, prefix = typed:match "^(.*/)([^/]*)$"
  folder, prefix = folder or "", prefix or typed
  local place = folder:gsub("^~/", (os.getenv "HOME" or "~") .. "/")
  local good, iterate, state = pcall(lfs.dir, place == "" and "." or place)
  if not good then return found end
  for name in iterate, state do
    local hidden = name:sub(1, 1) == "." and prefix:sub(1, 1) ~= "."
    if name ~= "." and name ~= ".." and not hidden and name:sub(1, #prefix) == prefix then
      local is_folder = lfs.attributes(place .. name, "mode") == "directory"
      found[folder .. name .. (is_folder and "/" or "")] = true
    end
  end
  return found
end

-- ---- where the cursor is ---------------------------------------------------------------

--- Names that have a value already, directly behind the brace.
local function given(words, brace)
  local has, depth = {}, 0
  for i = brace + 1, #words do
    depth = depth + calls.step(words[i])
    if words[i].text == "=" and depth == 0 then has[words[i - 1].text] = true end
  end
  return has
end

--- Options of the call whose braces the cursor is in, and those that are given; nil where it is in
--- none.
local function options(words, environment)
  local brace = calls.open(words, #words)
  if not brace or words[brace].text ~= "{" then return nil end
  local entry = calls.around(words, brace, environment)
  if entry then return reference.options(entry), given(words, brace) end
end

--- The words that the option before a `=` may be.
local function choices(words, environment)
  local last = #words
  if not (words[last] and words[last].text == "=" and words[last - 1]) then return nil end
  local name = words[last - 1].text
  for _, option in ipairs(options(table.move(words, 1, last - 2, 1, {}), environment) or {}) do
    if option.name == name and option.kind:find '"' then
      local found = {}
      for word in option.kind:gmatch '"([^"]*)"' do found[word] = true end
      return found
    end
  end
end

local function with_prefix(found, prefix)
  local list = {}
  for text in pairs(found) do
    if text:sub(1, #prefix) == prefix then list[#list + 1] = text end
  end
  table.sort(list)
  return list
end

local function in_quotes(words, environment)
  local open = words[#words]
  local typed = open.text:match "^[\"'](.*)$"
  if not typed then return {}, "" end -- [[ or a comment
  local found = choices(table.move(words, 1, #words - 1, 1, {}), environment)
  return with_prefix(found or files(typed), typed), typed, open.text:sub(1, 1)
end

--- Option names at a place where a key can stand, as "name = ".
local function keys(words, prefix, environment)
  local before = words[#words] and words[#words].text
  if before ~= "{" and before ~= "," and before ~= ";" then return nil end
  local list, all, has = {}, options(words, environment)
  for _, option in ipairs(all or {}) do
    if not has[option.name] and option.name:sub(1, #prefix) == prefix then
      list[#list + 1] = option.name .. " = "
    end
  end
  table.sort(list)
  return #list > 0 and list or nil
end

--- Methods of what a call before the sign gives, as the reference has it.
local function after_call(words, sign, prefix, environment)
  local class = sign == ":" and calls.class(words, #words - 1, environment)
  local ok, list = pcall(core.methods, class and "performer." .. class:lower())
  local found = {}
  if ok then add_keys(found, list, prefix) end
  return with_prefix(found, prefix)
end

--- What the text up to the cursor can go on with: a sorted list of whole words, the part of them
--- that is typed, and the quote that it stands in.
function complete.find(text, environment)
  text = text:gsub("^%s*%?", "")
  local words = chunk.words(text)
  local last = words[#words]
  if last and last.kind == "open" then return in_quotes(words, environment) end
  local prefix = ""
  if last and (last.kind == "name" or last.kind == "keyword") and last.last == #text then
    prefix = last.text
    words[#words] = nil
    last = words[#words]
  end
  local sign = last and last.text
  if sign == "." or sign == ":" then
    local value = path.value(words, #words - 1, environment)
    if value == nil then return after_call(words, sign, prefix, environment), prefix end
    local found = (sign == ":" or type(value) ~= "table") and methods(value, prefix)
      or fields(value, prefix)
    return with_prefix(found, prefix), prefix
  end
  local options_here = keys(words, prefix, environment)
  if options_here then return options_here, prefix end
  return with_prefix(names(environment, prefix), prefix), prefix
end

-- ---- at Tab ------------------------------------------------------------------------

--- What all texts begin with.
local function common(list)
  local first, n = list[1], #list[1]
  for _, text in ipairs(list) do
    while text:sub(1, n) ~= first:sub(1, n) do n = n - 1 end
  end
  return first:sub(1, n)
end

--- Texts in columns.
local function columns(list, width)
  local widest, lines, most = 0, {}, 200
  for _, text in ipairs(list) do widest = math.max(widest, #text) end
  local across = math.max(1, (width + 2) // (widest + 2))
  local down = (math.min(#list, most) + across - 1) // across
  for row = 1, down do
    local line = {}
    for column = 1, across do
      local text = list[(column - 1) * down + row]
      if text and (column - 1) * down + row <= most then
        line[column] = text .. (" "):rep(widest - #text)
      end
    end
    lines[row] = table.concat(line, "  "):gsub("%s+$", "")
  end
  if #list > most then lines[#lines + 1] = ("... %d more"):format(#list - most) end
  return table.concat(lines, "\n")
end

--- For the text up to the cursor: what to insert, or nil and what to show.
function complete.at(text, environment, width)
  if not text:match "([^\n]*)$":find "%S" then return "  " end
  local list, prefix, quote = complete.find(text, environment)
  if #list == 0 then return nil end
  local shared = common(list)
  if #list == 1 then
    local closed = quote and shared:sub(-1) ~= "/" and quote or ""
    return shared:sub(#prefix + 1) .. closed
  end
  if #shared > #prefix then return shared:sub(#prefix + 1) end
  local shown = {}
  for i, name in ipairs(list) do
    shown[i] = name:gsub(" = $", "")
    if quote then shown[i] = shown[i]:match "[^/]+/?$" or shown[i] end
  end
  return nil, columns(shown, width)
end

return complete
