-- performer/repl/show.lua: a value as a prompt shows it: tables with what is in them, as far as it
-- helps; models as a tree of shapes; functions by where they are written.
local core = require "performer.core"
local util = require "performer.util"

local show = {}

-- Entries of a table, tables in one another, entries of all of them; bytes of a text, and of one in
-- a table; rows of a model.
local MOST = { entries = 40, depth = 5, all = 400, text = 2000, inner = 200, rows = 80 }

--- 1234567 as 1,234,567.
local function grouped(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end
show.grouped = grouped

-- ---- short ones ----------------------------------------------------------------------

local ESCAPES = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ["\\"] = "\\\\", ['"'] = '\\"' }

--- A text in quotes, what a terminal would obey or not show escaped.
local function quoted(text, most)
  local whole = #text
  if whole > most then text = text:sub(1, utf8.offset(text, 0, most + 1) - 1) end
  local parts, at = {}, 1
  while at <= #text do
    local length, bad = utf8.len(text, at)
    parts[#parts + 1] = text:sub(at, length and #text or bad - 1):gsub("[%c\\\"]", function(c)
      return ESCAPES[c] or ("\\x%02X"):format(c:byte())
    end):gsub("\xC2[\x80-\x9F]", function(c) return ("\\u{%x}"):format(utf8.codepoint(c)) end)
    if length then break end
    parts[#parts + 1] = ("\\x%02X"):format(text:byte(bad))
    at = bad + 1
  end
  local cut = whole > #text and (" ... %s bytes more"):format(grouped(whole - #text)) or ""
  return '"' .. table.concat(parts) .. '"' .. cut
end

--- Names of what the module has: { [function] = "pf.nn.block" }.
local function names_of(pf)
  local names, seen = {}, {}
  local function walk(t, prefix)
    seen[t] = true
    for key, value in pairs(t) do
      if type(value) == "function" and not names[value] then names[value] = prefix .. key end
      if type(value) == "table" and type(key) == "string" and not seen[value] then
        walk(value, prefix .. key .. ".")
      end
    end
  end
  walk(pf, "pf.")
  for _, library in ipairs { "string", "table", "math", "io", "os", "coroutine", "utf8", "debug",
                             "_G" } do
    for key, value in pairs(package.loaded[library]) do
      local own = type(value) == "function" and debug.getinfo(value, "S").what == "C"
      if own and not names[value] then
        names[value] = library == "_G" and key or library .. "." .. key
      end
    end
  end
  return names
end

local known -- made when it is first asked for

--- What a function is called in the reference, or nil.
function show.name(f)
  known = known or names_of(require "performer")
  return known[f]
end

local function parameters(f, info)
  local list = {}
  for i = 1, info.nparams do list[i] = debug.getlocal(f, i) end
  if info.isvararg then list[#list + 1] = "..." end
  return table.concat(list, ", ")
end

--- "function (a, b): file.lua:12", or by its name in the reference.
local function function_text(f)
  local name, info = show.name(f), debug.getinfo(f, "Su")
  if name then return ("function %s (?%s says more)"):format(name, name) end
  if info.what == "C" then return "function, written in C" end
  return ("function (%s): %s:%d"):format(parameters(f, info), info.short_src, info.linedefined)
end

local function safe_tostring(value)
  if type(value) == "number" and value ~= value then return "nan" end -- C says -nan of most
  local ok, text = pcall(tostring, value)
  return ok and text or ("a %s that can't be shown: %s"):format(type(value), tostring(text))
end

--- One line of something that has several, in a table.
local function brief(value)
  if core.kind(value) == "tensor" and value:alive() then
    return ("tensor %s %s"):format(value:shape(), value:dtype())
  end
  local line = safe_tostring(value):gsub("\n.*", " ...")
  return #line > 100 and line:sub(1, 97) .. "..." or line
end

-- ---- tables ---------------------------------------------------------------------------

local function count(t)
  local n = 0
  for _ in next, t do n = n + 1 end
  return n
end

local function key_text(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return key end
  if type(key) == "string" then return "[" .. quoted(key, MOST.inner) .. "]" end
  return "[" .. brief(key) .. "]"
end

local inner

--- Texts of its entries: those of the list, then of the other keys in order; how many more.
local function entries_of(t, context)
  local list, fields, n = {}, {}, rawlen(t)
  for i = 1, math.min(n, MOST.entries) do
    if context.room <= 0 then break end
    list[i] = inner(rawget(t, i), context)
  end
  local left = n - #list
  for _, key in ipairs(util.sorted_keys(t)) do
    local listed = math.type(key) == "integer" and key >= 1 and key <= n
    if not listed and #fields < MOST.entries and context.room > 0 then
      fields[#fields + 1] = key_text(key) .. " = " .. inner(rawget(t, key), context)
    elseif not listed then
      left = left + 1
    end
  end
  return list, fields, left
end

--- Rows of texts, several in one where they fit.
local function fill(texts, width, lines)
  local line
  for i, text in ipairs(texts) do
    text = text .. (i < #texts and "," or "")
    if line and not text:find "\n" and #line + #text + 1 <= width and not line:find "\n" then
      line = line .. " " .. text
    else
      lines[#lines + 1], line = line, text
    end
  end
  lines[#lines + 1] = line
end

--- The entries on one line, or nil where they don't fit.
local function on_one_line(texts, width)
  local line = "{ " .. table.concat(texts, ", ") .. " }"
  if #line <= width and not line:find "\n" then return line end
end

local function table_text(t, context)
  if next(t) == nil then return "{}" end
  if context.above[t] then return "{ this goes round }" end
  if context.depth >= MOST.depth then
    local n = count(t)
    return ("{ %s %s }"):format(grouped(n), n == 1 and "entry" or "entries")
  end
  context.above[t] = true
  context.depth, context.width = context.depth + 1, context.width - 2
  local list, fields, left = entries_of(t, context)
  context.depth, context.width = context.depth - 1, context.width + 2
  context.above[t] = nil
  local more = left > 0 and { ("... %s more"):format(grouped(left)) } or {}
  local all = table.move(list, 1, #list, 1, {})
  table.move(fields, 1, #fields, #all + 1, all)
  table.move(more, 1, #more, #all + 1, all)
  local line = on_one_line(all, context.width)
  if line then return line end
  local lines = {}
  if #fields + #more > 0 and #list > 0 then list[#list] = list[#list] .. "," end
  fill(list, context.width - 2, lines)
  for i, field in ipairs(fields) do
    lines[#lines + 1] = field .. ((i < #fields or #more > 0) and "," or "")
  end
  lines[#lines + 1] = more[1]
  return "{\n  " .. table.concat(lines, "\n"):gsub("\n", "\n  ") .. "\n}"
end

--- A value inside another one.
function inner(value, context)
  context.room = context.room - 1
  if type(value) == "string" then return quoted(value, MOST.inner) end
  if type(value) == "function" then return function_text(value) end
  if type(value) == "table" and not util.has_tostring(value) then
    return table_text(value, context)
  end
  return brief(value)
end

-- ---- models ---------------------------------------------------------------------------

--- Parameters and what else is saved, as a tree of the parts of their names, in walk order.
local function tensor_tree(model)
  local root = { order = {}, parts = {}, trained = 0 }
  local function add(name, tensor, trained)
    local node = root
    for part in name:gmatch "[^.]+" do
      node.trained = node.trained + trained
      if not node.parts[part] then
        node.parts[part] = { order = {}, parts = {}, trained = 0 }
        node.order[#node.order + 1] = part
      end
      node = node.parts[part]
    end
    node.trained, node.shape, node.saved = trained, tostring(tensor:shape()), trained == 0
  end
  local tensors, names = model:parameters()
  local seen = {}
  for i, name in ipairs(names) do
    seen[name] = true
    add(name, tensors[i], tensors[i]:numel())
  end
  for name, tensor in util.sorted(model:tensors()) do
    if not seen[name] then add(name, tensor, 0) end
  end
  return root
end

--- What tells whether two parts are alike.
local function form_of(node)
  local parts = { node.shape or "" }
  for _, name in ipairs(node.order) do parts[#parts + 1] = name .. form_of(node.parts[name]) end
  return table.concat(parts, " ") .. ";"
end

local add_rows

local function add_node(rows, name, node, indent)
  while #node.order == 1 and not node.shape do -- a.b where a has nothing else
    name = name .. "." .. node.order[1]
    node = node.parts[node.order[1]]
  end
  rows[#rows + 1] = { indent .. name, node.shape or "",
    node.saved and "not trained" or grouped(node.trained) }
  add_rows(rows, node, indent .. "  ")
end

function add_rows(rows, node, indent)
  local i = 1
  while i <= #node.order do
    local name, part = node.order[i], node.parts[node.order[i]]
    local last, form = i, name:find "^%d+$" and form_of(part)
    while form and node.order[last + 1] and node.order[last + 1]:find "^%d+$"
      and form_of(node.parts[node.order[last + 1]]) == form do
      last = last + 1
    end
    add_node(rows, last > i and ("%s to %s, each"):format(name, node.order[last]) or name, part,
      indent)
    i = last + 1
  end
end

--- A model: its options, then a row for each part with shapes and counts of parameters.
local function module_text(model)
  local rows, widths = {}, { 0, 0, 0 }
  add_rows(rows, tensor_tree(model), "  ")
  for _, row in ipairs(rows) do
    for i = 1, 3 do widths[i] = math.max(widths[i], #row[i]) end
  end
  local lines = { (safe_tostring(model):gsub("(%d+) parameters", function(n)
    return grouped(tonumber(n)) .. " parameters"
  end)) }
  local form = ("%%-%ds  %%-%ds  %%%ds"):format(widths[1], widths[2], widths[3])
  for i, row in ipairs(rows) do
    if i > MOST.rows then
      lines[#lines + 1] = ("  ... %d rows more"):format(#rows - MOST.rows)
      break
    end
    lines[#lines + 1] = form:format(row[1], row[2], row[3])
  end
  return table.concat(lines, "\n")
end

-- ---- what is shown --------------------------------------------------------------------

--- Words wrapped at the width, further lines behind the indent; `taken`: columns that stand before
--- the first line.
function show.wrap(text, width, indent, taken)
  local lines, line = {}, nil
  for word in text:gmatch "%S+" do
    if line and #line + 1 + #word + (#lines == 0 and taken or 0) > width then
      lines[#lines + 1], line = line, nil
    end
    line = line and line .. " " .. word or (#lines > 0 and indent or "") .. word
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

--- `pf` itself: what there is, by its parts.
local function overview(pf, width)
  local lists, spaces = {}, {}
  for name, value in util.sorted(pf) do
    if type(value) == "table" then
      spaces[#spaces + 1] = "pf." .. name
    elseif type(value) == "function" then
      lists[#lists + 1] = name
    end
  end
  return table.concat({ ("Performer %s"):format(pf.version),
    show.wrap("parts: " .. table.concat(spaces, ", "), width, "  "),
    show.wrap("functions: " .. table.concat(lists, ", "), width, "  "),
    "?pf.matmul says what one does, ?pf.nn what a part has; Tab completes names" }, "\n")
end

local function new_context(width)
  return { above = {}, depth = 0, room = MOST.all, width = width }
end

--- The text of a value, at most `width` columns wide where that can be.
function show.value(value, width)
  local kind = core.kind(value)
  if kind == "string" then return quoted(value, MOST.text) end
  if kind == "function" then return function_text(value) end
  if kind == "module" then
    local ok, text = pcall(module_text, value)
    return ok and text or safe_tostring(value)
  end
  if kind == "table" and value == package.loaded.performer then return overview(value, width) end
  if kind == "table" and not util.has_tostring(value) then
    return table_text(value, new_context(width))
  end
  local text = safe_tostring(value)
  if kind ~= "table" or text:find "\n" or #text <= width then return text end
  local name = debug.getmetatable(value).__name -- util.shown: what the engine gives as a table
  if type(name) ~= "string" then return show.wrap(text, width, "  ") end
  return name .. " " .. table_text(value, new_context(width))
end

--- Several values: on one line where they are short, else one below the other.
function show.values(values, width)
  local texts, wide = {}, 0
  for i = 1, values.n do
    texts[i] = show.value(values[i], width)
    wide = wide + #texts[i] + 2
    if texts[i]:find "\n" then wide = math.huge end
  end
  return table.concat(texts, wide <= width + 2 and "  " or "\n")
end

return show
