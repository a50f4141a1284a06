-- check_circles.lua - one name, one thing, and no circle of files. In engine/ and bindings/ no
-- type and no function or object is defined in two files (what is static in a .c file may
-- repeat), and no files name each other's functions or objects in a circle, headers aside; no
-- Lua files of bindings/ and scripts/ require each other in one. Run from the root.
--
-- It reads C as text: a definition stands at brace depth 0; whatever else names it, outside
-- comments, strings and fields, is a use. The row of a table that a .def file lists is data: who
-- names it asks which one it is, and runs none of its file's code; who opens it (row.field) uses
-- it. A function is a use wherever it is named, also by the pasting of a .def file.
local lfs = require "lfs"

local function walk(folder, kinds, found)
  if not lfs.attributes(folder, "mode") then return found end
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode = name:sub(1, 1) ~= "." and lfs.attributes(path, "mode")
    if mode == "directory" then
      walk(path, kinds, found)
    elseif mode == "file" and kinds[name:match "%.(%a+)$"] then
      found[#found + 1] = path
    end
  end
  table.sort(found)
  return found
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

-- ---- C as text --------------------------------------------------------------------

-- Where the comment or literal that opens at `at` ends.
local function skip(text, at)
  local two = text:sub(at, at + 1)
  if two == "/*" then return select(2, text:find("*/", at + 2, true)) or #text end
  if two == "//" then return (text:find("\n", at, true) or #text + 1) - 1 end
  local quote = text:sub(at, at)
  if quote == "/" then return nil end
  local i = at + 1
  while i <= #text and text:sub(i, i) ~= quote do
    i = i + (text:sub(i, i) == "\\" and 2 or 1)
  end
  return i
end

-- Without comments and literals; a macro's name for a level's function is a name.
local function code_of(text)
  local parts, from = {}, 1
  local at = text:find "[/\"']"
  while at do
    local last = skip(text, at)
    if last then
      parts[#parts + 1] = text:sub(from, at - 1) .. " "
      from = last + 1
    end
    at = text:find("[/\"']", (last or at) + 1)
  end
  parts[#parts + 1] = text:sub(from)
  return (table.concat(parts):gsub("PF_KERN%((%w+)%)", "PF_KERN_%1"))
end

-- Text of the preprocessor's lines taken out; `#include` and `#define` lines in a list.
local function split_lines(code)
  local directives = {}
  local plain = ("\n" .. code:gsub("\\\n", " ")):gsub("\n[ \t]*#[^\n]*", function(line)
    directives[#directives + 1] = line
    return "\n"
  end)
  return plain, directives
end

-- Calls visit(head, opener) for every declaration at depth 0: its text before the first brace,
-- "{" or ";" (bodies are taken out, so a struct's declarators follow in the same head).
local function each_declaration(plain, visit)
  plain = plain:gsub("extern%s*{", "")
  local head, depth, from = {}, 0, 1
  for at, mark in plain:gmatch "()([{};])" do
    if depth == 0 then head[#head + 1] = plain:sub(from, at - 1) end
    from = at + 1
    if mark == "{" then
      if depth == 0 then
        local text = table.concat(head)
        if text:find "%)%s*$" and not text:find "=" then
          visit(text, true) -- a function: nothing follows its body
          head = {}
        else
          head[#head + 1] = " {} "
        end
      end
      depth = depth + 1
    elseif mark == "}" then
      depth = math.max(depth - 1, 0)
    elseif depth == 0 then
      visit(table.concat(head), false)
      head = {}
    end
  end
end

-- Types that a declaration defines: a body, a typedef's name. `typedef struct x x;` is none.
local function types_in(text, add)
  for kind, tag in text:gmatch "%f[%w_](%l+)%s+([%w_]+)%s*{}" do
    if kind == "struct" or kind == "enum" or kind == "union" then add(tag) end
  end
  local rest = text:match "^%s*typedef%s+(.*)$"
  if not rest then return end
  local name = rest:match "%(%s*%*%s*([%w_]+)%s*%)%s*%(" or rest:match "([%w_]+)%s*%b()%s*$"
    or rest:match "([%w_]+)%s*%b[]%s*$" or rest:match "([%w_]+)%s*$"
  local tag = rest:match "^struct%s+([%w_]+)"
  if name and not (name == tag and not rest:find("{}", 1, true)) then add(name) end
end

-- The name of the extern function or object that a declaration of a .c file defines.
local function extern_in(text, is_function)
  text = text:gsub("__attribute__%s*%b()", ""):gsub("^%s+", "")
  if text:find "^typedef" or text:find "^extern" then return end
  if text:find "%f[%w_]static%f[^%w_]" or text:find "%f[%w_]PF_INLINE%f[^%w_]" then return end
  if is_function then return text:match "([%w_]+)%s*%b()%s*$" end
  local before, value = text:match "^(.-)(=.*)$"
  before = (before or text):gsub("%s*%b[]", ""):gsub("%s+$", "")
  if before:find "%)$" then return end -- a prototype
  if not value and not before:find "^[%w_ *]+[ *][%w_]+$" then return end
  if not value and before:find "^%l+%s+[%w_]+$" and before:find "^struct" then return end
  return before:match "([%w_]+)$"
end

-- ---- what a file defines and uses -------------------------------------------------

-- Calls add(name) for what the lists included by `file` paste together.
local function pasted_names(file, defs, add)
  for _, line in ipairs(file.directives) do
    for prefix in line:gmatch "([%w_]+)##[%w_]+" do
      for _, def in pairs(file.lists) do
        for entry in (defs[def] or ""):gmatch "PF_%u+%(([%w_]+)" do
          add(prefix .. entry)
        end
      end
    end
  end
end

local function read_c(path)
  local text = read(path)
  local lists = {}
  for name in text:gmatch '#%s*include%s*"([^"]+%.def)"' do lists[#lists + 1] = name end
  local plain, directives = split_lines(code_of(text))
  local file = { path = path, lists = lists, directives = directives, types = {}, externs = {},
                 inlines = {} }
  local public = not path:find "%.c$"
  each_declaration(plain, function(declaration, is_function)
    types_in(declaration, function(name)
      if name:find "^l?pf_" then file.types[name] = true end
    end)
    local inline = public and is_function and declaration:match "(l?pf_[%w_]+)%s*%b()%s*$"
    if inline then file.inlines[inline] = true end
    local name = not public and extern_in(declaration, is_function)
    if name then file.externs[name] = is_function and "function" or "object" end
  end)
  file.code = plain .. table.concat(directives, "\n")
  return file
end

-- Names that the file uses; rows count where a field of theirs is.
local function uses_of(file, defs, rows)
  local uses = {}
  for name in file.code:gmatch "([%a_][%w_]*)%s*%.%s*[%a_]" do uses[name] = true end
  local code = file.code:gsub("%->%s*[%w_]+", ""):gsub("%.%s*[%a_][%w_]*", "")
  for name in code:gmatch "[%a_][%w_]*" do
    if not rows[name] then uses[name] = true end
  end
  pasted_names(file, defs, function(name)
    if not rows[name] then uses[name] = true end
  end)
  return uses
end

-- ---- circles ----------------------------------------------------------------------

-- Strongly connected parts of more than one node, or of one that names itself (Tarjan).
local function circles(nodes, arrows)
  local index, low, on, stack, found, count = {}, {}, {}, {}, {}, 0
  local function visit(node)
    count = count + 1
    index[node], low[node] = count, count
    stack[#stack + 1], on[node] = node, true
    for to in pairs(arrows[node] or {}) do
      if not index[to] then visit(to) end
      if on[to] then low[node] = math.min(low[node], low[to]) end
    end
    if low[node] ~= index[node] then return end
    local part = {}
    repeat
      local top = table.remove(stack)
      on[top] = nil
      part[#part + 1] = top
    until top == node
    table.sort(part)
    if #part > 1 or (arrows[node] or {})[node] then found[#found + 1] = part end
  end
  for _, node in ipairs(nodes) do
    if not index[node] then visit(node) end
  end
  return found
end

local passed, failed = 0, 0

local function sorted_keys(set)
  local list = {}
  for key in pairs(set) do list[#list + 1] = key end
  table.sort(list)
  return list
end

-- Every arrow inside the circle, with the names that make it: what has to move.
local function report_circle(part, arrows)
  failed = failed + 1
  print(("%s: a circle of %d files; let one of them not need the other:"):format(part[1], #part))
  local inside = {}
  for _, path in ipairs(part) do inside[path] = true end
  for _, from in ipairs(part) do
    for _, to in ipairs(sorted_keys(arrows[from] or {})) do
      local names = arrows[from][to]
      if inside[to] then
        print(("  %s -> %s (%s)"):format(from, to, table.concat(sorted_keys(names), ", ")))
      end
    end
  end
end

local function check_graph(nodes, arrows)
  local found = circles(nodes, arrows)
  passed = passed + #nodes
  for _, part in ipairs(found) do
    passed = passed - #part
    report_circle(part, arrows)
  end
end

local function add_arrow(arrows, from, to, name)
  arrows[from] = arrows[from] or {}
  arrows[from][to] = arrows[from][to] or {}
  arrows[from][to][name] = true
end

-- ---- the two languages ------------------------------------------------------------

-- Each name's homes; a name with two fails, whatever the two are.
local function check_homes(files)
  local homes = {}
  for _, file in ipairs(files) do
    for _, set in ipairs { file.types, file.externs, file.inlines } do
      for name in pairs(set) do
        homes[name] = homes[name] or {}
        homes[name][file.path] = true
      end
    end
  end
  for _, name in ipairs(sorted_keys(homes)) do
    local paths = sorted_keys(homes[name])
    if #paths == 1 then
      passed = passed + 1
    else
      failed = failed + 1
      print(("%s: '%s' is also defined in %s; one name, one thing"):format(
        paths[1], name, table.concat(paths, ", ", 2)))
    end
  end
end

local function read_all()
  local defs, files = {}, {}
  local paths = walk("engine", { c = true, h = true, def = true }, {})
  walk("bindings", { c = true, h = true, def = true }, paths)
  for _, path in ipairs(paths) do
    if path:find "%.def$" then
      defs[path:match "[^/]*$"] = code_of(read(path))
    else
      files[#files + 1] = read_c(path)
    end
  end
  return defs, files
end

local function check_c()
  local defs, files = read_all()
  local home, kind, rows, nodes, arrows = {}, {}, {}, {}, {}
  check_homes(files)
  for _, file in ipairs(files) do
    for name, what in pairs(file.externs) do home[name], kind[name] = file.path, what end
  end
  for _, file in ipairs(files) do
    pasted_names(file, defs, function(name) rows[name] = kind[name] == "object" end)
  end
  for _, file in ipairs(files) do
    if file.path:find "%.c$" then
      nodes[#nodes + 1] = file.path
      for name in pairs(uses_of(file, defs, rows)) do
        local to = home[name]
        if to and to ~= file.path then add_arrow(arrows, file.path, to, name) end
      end
    end
  end
  check_graph(nodes, arrows)
end

local function check_lua()
  local paths = walk("bindings", { lua = true }, {})
  walk("scripts", { lua = true }, paths)
  local by_name = {}
  for _, path in ipairs(paths) do
    local name = path:gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
    by_name[name], by_name[name:gsub("^%w+%.", "", 1)] = path, path
  end
  local arrows = {}
  for _, path in ipairs(paths) do
    local text = read(path):gsub("%-%-[^\n]*", "")
    for name in text:gmatch "%f[%w_]require%s*%(?%s*[\"']([%w_.]+)[\"']" do
      if by_name[name] then add_arrow(arrows, path, by_name[name], name) end
    end
  end
  check_graph(paths, arrows)
end

check_c()
check_lua()
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
