-- performer/repl/help.lua: what `?name` says: of functions and methods the words of the reference,
-- of a part of the module what it has, of the user's own functions the comment above them.
local calls = require "performer.repl.calls"
local chunk = require "performer.repl.chunk"
local core = require "performer.core"
local path = require "performer.repl.path"
local reference = require "performer.repl.reference"
local show = require "performer.repl.show"
local util = require "performer.util"
local words = require "performer.words"

local help = {}

local INTRODUCTION = [[
Lua %s with Performer %s at hand, as pf, and its layers as nn. What is typed
is run, and the values of an expression are shown; _ is the last one.

  x = pf.randn(3, 4)  a name that stays; local does so, too, for this session
  x:softmax()         a value is shown without print
  ?pf.matmul          what a function does; ?x:sum a method, ?nn what a part has
  %%time expression    how long it takes; %%timeit the median of many runs
  %%who                the names that were made here
  Tab                 completes names, methods, options in { }, files in quotes
  arrow up            what was typed before, in earlier sessions too, beginning
                      as the line does; Ctrl-R looks for it
  Ctrl-C              ends what runs, or leaves the line
  Ctrl-D              ends the session

What is not complete goes on in the next line; an empty one leaves it.]]

--- The nearest of any number of names: the core looks at not so many at once.
local function nearest(word, names)
  local best = {}
  for first = 1, #names, 100 do
    best[#best + 1] = core.nearest(word, table.move(names, first, math.min(first + 99, #names), 1,
      {}))
  end
  return #best > 0 and core.nearest(word, best) or nil
end

--- The first sentence.
local function brief(doc) return (doc:gsub("(%.)%s+%u.*", "%1")) end

local function add_options(lines, entry, width)
  local options, widest = reference.options(entry), 0
  for _, option in ipairs(options) do widest = math.max(widest, #option.name) end
  if #options == 0 then return end
  lines[#lines + 1] = "options, in { }:"
  for _, option in ipairs(options) do
    local kind = #option.kind > 60 and option.kind:sub(1, 57) .. "..." or option.kind
    local text = ("%s. %s"):format(kind, option.doc or ""):gsub("%. $", "")
    local name = ("  %-" .. widest .. "s  "):format(option.name)
    lines[#lines + 1] = name .. show.wrap(text, math.max(30 + #name, width),
      (" "):rep(#name), #name)
  end
end

local function entry_text(entry, width)
  local lines = { reference.call(entry) .. (entry.result and "  ->  " .. entry.result or "") }
  lines[#lines + 1] = "  " .. show.wrap(entry.doc, width, "  ", 2)
  for _, parameter in ipairs(entry.parameters) do
    local told = parameter.kind == "pf.Tensor" or parameter.kind == "any"
      or parameter.kind:find "^pf%.Options%."
    if not told then
      lines[#lines + 1] = ("  %s: %s"):format(parameter.name, parameter.kind)
    end
  end
  add_options(lines, entry, width)
  return table.concat(lines, "\n")
end

--- What begins with the prefix, a line each.
local function list_text(prefix, width)
  local names, widest = {}, 0
  for _, name in ipairs(reference.get().order) do
    if name:sub(1, #prefix) == prefix then
      names[#names + 1] = name
      widest = math.max(widest, #name)
    end
  end
  table.sort(names)
  local lines = {}
  for i, name in ipairs(names) do
    local doc = brief(reference.get().functions[name].doc)
    local room = math.max(20, width - widest - 2)
    if #doc > room then doc = doc:sub(1, room - 3):gsub("%s+%S*$", "") .. "..." end
    lines[i] = ("%-" .. widest .. "s  %s"):format(name, doc)
  end
  return #names > 0 and table.concat(lines, "\n") or nil
end

--- The comment that stands right above a function in its file.
local function comment_above(info)
  local file = info.source:sub(1, 1) == "@" and io.open(info.source:sub(2))
  local lines = {}
  if not file then return lines end
  local number = 0
  for line in file:lines() do
    number = number + 1
    if number >= info.linedefined then break end
    local comment = line:match "^%s*%-%-+%s?(.*)"
    if comment then lines[#lines + 1] = "  " .. comment else lines = {} end
  end
  file:close()
  return lines
end

local function function_text(f, width)
  local name = show.name(f)
  local entry = name and reference.get().functions[name]
  if entry then return entry_text(entry, width) end
  local lines = { show.value(f, width) }
  if name and name:find "^pf%." then
    lines[1] = ("%s: the file that says what it does is missing here: %s"):format(name,
      reference.path)
  elseif name then
    lines[1] = ("%s: a function of Lua's: https://www.lua.org/manual/5.4/manual.html#pdf-%s")
      :format(name, name)
  end
  if not name then
    local above = comment_above(debug.getinfo(f, "S"))
    table.move(above, 1, #above, 2, lines)
  end
  return table.concat(lines, "\n")
end

--- A name of the module's tables: "pf.nn".
local function space_name(value)
  local pf = require "performer"
  if value == pf then return "pf" end
  for name, part in pairs(pf) do
    if part == value then return "pf." .. name end
  end
end

local function value_text(value, width)
  if type(value) == "function" then return function_text(value, width) end
  local space = type(value) == "table" and space_name(value)
  if space then
    local doc = space == "pf" and show.value(value, width) or list_text(space .. ".", width)
    if doc then return doc end
  end
  local methods = list_text(calls.class_name(value) .. ":", width)
  return show.value(value, width) .. (methods and "\nmethods:\n" .. methods or "")
end

--- Names of the reference that a word may mean.
local function near_names(query)
  local found, all, last = {}, {}, query:match "[^.:]+$" or query
  for _, name in ipairs(reference.get().order) do
    local own = name:match "[^.:]+$"
    all[#all + 1] = name
    if own == last or own:lower() == last:lower() then found[#found + 1] = name end
  end
  if #found > 0 then return found end
  local near = nearest(query, all)
  if near then return { near } end
  local owns, by_own = {}, {}
  for _, name in ipairs(all) do
    local own = name:match "[^.:]+$"
    owns[#owns + 1] = own
    by_own[own] = by_own[own] or name
  end
  near = nearest(last, owns)
  if near then return { by_own[near] } end
  for _, name in ipairs(all) do
    if #last > 2 and name:lower():find(last:lower(), 1, true) then found[#found + 1] = name end
  end
  return found
end

--- What stands for `library.name` here, and the name of it that the reference knows; nil: it is no
--- library that one knows.
function help.of_library(library, name)
  local space = rawget(words.libraries, library)
  if not space then return nil end
  local full = space == "pf" and "pf" or "pf." .. space
  local own = name and full .. "." .. name
  if own and reference.get().functions[own] then return "it is " .. own, own end
  local known = name and words[space] and words[space][name]
  return known or ("what there is of it is in %s: ?%s lists it"):format(full, full)
end

--- What other libraries call so.
local function meant(query)
  local library, part = query:match "^(%a+)%.([%w_]+)$"
  if library and help.of_library(library, part) then return help.of_library(library, part) end
  local space, name = query:match "^pf%.(%w+)%.([%w_]+)$"
  if not space then space, name = "pf", query:match "^pf%.([%w_]+)$" end
  if query:find "^nn%." then space, name = "nn", query:match "^nn%.([%w_]+)$" end
  if not name then
    space, name = query:match "^(%u%w*):([%w_]+)$"
    space = space and space:lower()
  end
  local known = words[space]
  return type(known) == "table" and known[name] or nil
end

local function nothing(query, width)
  if reference.get().missing and #near_names(query) == 0 then
    return ("nothing is known of %s: the reference is missing here: %s"):format(query,
      reference.path)
  end
  local other, own = meant(query)
  if other then
    return ("there is no %s; %s"):format(query, other)
      .. (own and "\n" .. entry_text(reference.get().functions[own], width) or "")
  end
  local near = near_names(query)
  if #near == 0 then return ("nothing is called %s; ? alone says what there is"):format(query) end
  if #near == 1 then
    return ("nothing is called %s; did you mean %s?\n%s"):format(query, near[1],
      entry_text(reference.get().functions[near[1]], width))
  end
  local most = table.move(near, 1, math.min(#near, 12), 1, {})
  return ("nothing is called just %s; there are %s"):format(query, table.concat(most, ", "))
end

--- The text for what stands behind a `?`, of names in the environment.
function help.text(query, environment, width)
  query = query:gsub("%s*%(.*%)?%s*$", ""):gsub("^%s+", ""):gsub("%s+$", "")
  if query == "" then
    return INTRODUCTION:format(_VERSION:match "[%d.]+$", core.version)
  end
  local full = query:gsub("^nn([.:])", "pf.nn%1")
  local known = reference.get().functions
  if known[full] then return entry_text(known[full], width) end
  if chunk.keywords[query] then
    return query .. ": a word of Lua's: https://www.lua.org/manual/5.4/manual.html#3"
  end
  local parts = chunk.words(query)
  local value, owner = path.value(parts, #parts, environment)
  if owner ~= nil then
    local name = calls.class_name(owner) .. ":" .. parts[#parts].text
    if known[name] then return entry_text(known[name], width) end
    full = name
  elseif query:find ":" and #parts > 2 then
    owner = path.value(parts, #parts - 2, environment)
    if owner ~= nil then full = calls.class_name(owner) .. ":" .. parts[#parts].text end
    if known[full] then return entry_text(known[full], width) end
  end
  if value ~= nil then return value_text(value, width) end
  if query:find "^%u%w*$" then
    local methods = list_text(query .. ":", width)
    if methods then return methods end
  end
  return nothing(full, width)
end

--- For messages: a name of the environment near to one that has no value.
function help.near(name, environments)
  local names = {}
  for _, environment in ipairs(environments) do
    for _, key in ipairs(util.sorted_keys(environment)) do
      if type(key) == "string" then names[#names + 1] = key end
    end
  end
  return nearest(name, names)
end

return help
