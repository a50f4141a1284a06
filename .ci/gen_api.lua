-- gen_api.lua - bindings/annotations/performer.lua (for editors) and the generated tables of
-- bindings/README.md, from the engine's tables and from .ci/api.lua.
--
--   lua5.4 .ci/gen_api.lua           writes both, from the build in PF_BUILD (build/release)
--   lua5.4 .ci/gen_api.lua --check   exit code 1 when they are not up to date
local root = arg[0]:match "^(.*)%.ci/[^/]*$" or "./"
if root == "" then root = "./" end
local lua_dir = (os.getenv "PF_BUILD" or root .. "build/release") .. "/lua/"
package.path = lua_dir .. "?.lua;" .. lua_dir .. "?/init.lua;" .. package.path
package.cpath = lua_dir .. "?.so;" .. package.cpath

local pf = require "performer"
local core = require "performer.core"
local api = dofile(root .. ".ci/api.lua")

local NOTES, README = root .. "bindings/annotations/performer.lua", root .. "bindings/README.md"

-- ---- coverage -----------------------------------------------------------------------

--- Names of every function a user can reach: "pf.nn.linear", "Tensor:shape".
local function reachable()
  local names = {}
  local function add(t, prefix)
    for key, value in pairs(t) do
      if type(value) == "function" then
        names[prefix .. key] = true
      elseif type(value) == "table" and not key:find "^_" then
        add(value, prefix .. key .. ".")
      end
    end
  end
  add(pf, "pf.")
  for class, name in pairs { Tensor = "tensor", Tape = "tape", Module = "module", State = "state",
    Stream = "stream", Serving = "serving", Optimizer = "optimizer", Data = "data",
    Items = "items" } do
    for method in pairs(core.methods("performer." .. name)) do
      names[class .. ":" .. method] = true
    end
  end
  return names
end

local tree = pf.describe()
local ops, layers, maps = tree.ops, tree.layers, tree.maps
local optimizers, schedules = tree.optimizers, tree.schedules
local patterns = {} -- rules that options say; lists are given otherwise
for _, row in ipairs(tree.patterns) do
  if not row.lists then patterns[#patterns + 1] = row end
end
local ALL = -1000 -- the default of a dimension that means all of them (PF_DIM_ALL)

local ROOMS = " Besides rooms, (B, H, rounds, Lk) i32, which the keys are in, or %s, by which "
  .. "k is told its rooms; neither: as the seed draws them."

--- Kinds of attention without words of their own in api.lua get an entry from their row, behind
--- linear attention's.
local function add_kinds(section, at)
  for _, kind in ipairs(tree.attention) do
    local name, there = "pf.attention." .. kind.name, false
    for _, entry in ipairs(section) do there = there or entry[1] == name end
    if not there then
      local own = {}
      for i, option in ipairs(kind.options) do own[i] = option.name .. ", " .. option.doc end
      at = at + 1
      table.insert(section, at, { name,
        "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor, options?: pf.AttentionOptions", "pf.Tensor",
        kind.doc .. (#own > 0 and " Options " .. table.concat(own, "; ") .. "." or "") ..
          (kind.table and ROOMS:format(kind.table) or "") })
    end
  end
end

for _, section in ipairs(api) do
  for i, entry in ipairs(section) do
    if entry[1] == "pf.attention.linear" then
      add_kinds(section, i)
      break
    end
  end
end

-- Lua's ranges end with their last, C's before their end.
for _, op in ipairs(ops) do
  op.doc = op.doc:gsub("to before `end`", "to `last`, which is in it,")
end

--- What the tables describe by themselves.
local function generated_names()
  local names = {}
  for _, op in ipairs(ops) do
    names["pf." .. op.name], names["Tensor:" .. op.name] = true, true
    if op.in_place then names["Tensor:" .. op.in_place] = true end
  end
  for _, layer in ipairs(layers) do names["pf.nn." .. layer.type] = true end
  for _, map in ipairs(maps) do names["pf.kernel." .. map.name] = true end
  for _, row in ipairs(optimizers) do names["pf.optim." .. row.name] = true end
  for _, row in ipairs(schedules) do names["pf.schedule." .. row.name] = true end
  for _, row in ipairs(patterns) do names["pf.pattern." .. row.name] = true end
  return names
end

local function check_coverage()
  local known, live, problems = generated_names(), reachable(), {}
  for _, section in ipairs(api) do
    for _, entry in ipairs(section) do
      known[entry[1]] = true
      local object = entry[1]:find "^Kernel:" or entry[1]:find "^Tokenizer:"
        or entry[1]:find "^Graph:" or entry[1]:find "^Pattern:" or entry[1]:find "^Ranks:"
      if not live[entry[1]] and not object then
        problems[#problems + 1] = entry[1] .. " is described in .ci/api.lua, but isn't there"
      end
    end
  end
  for name in pf.sorted(live) do
    if not known[name] then problems[#problems + 1] = name .. " is missing in .ci/api.lua" end
  end
  return problems
end

-- ---- pieces -------------------------------------------------------------------------

--- Parameters of an entry as { name, type, optional }, cut at commas outside brackets.
local function parameters(text)
  local list, depth, start = {}, 0, 1
  local function take(last)
    local part = text:sub(start, last):match "^%s*(.-)%s*$"
    if part == "" then return end
    local name, optional, kind = part:match "^([%w_.]+)(%??):%s*(.+)$"
    list[#list + 1] = { name = name, kind = kind, optional = optional == "?" }
  end
  for i = 1, #text do
    local c = text:sub(i, i)
    if c:find "[%(%{%[<]" then depth = depth + 1 end
    if c:find "[%)%}%]>]" then depth = depth - 1 end
    if c == "," and depth == 0 then
      take(i - 1)
      start = i + 1
    end
  end
  take(#text)
  return list
end

--- Inputs of an op as { name, optional }.
local function inputs(op)
  local list = {}
  for bracket, name in op.args:gmatch "(%[?)([%w_]+)" do
    list[#list + 1] = { name = name, optional = bracket == "[" }
  end
  return list
end

local lua_kinds = { int = "integer", number = "number", bool = "boolean", dim = "integer",
  new_dim = "integer",
  dims = "integer[]", ints = "integer[]", index = "integer", choice = "string",
  string = "string", texts = "string|string[]", tree = "table" }

local function attr_kind(attr)
  if attr.kind ~= "choice" then return lua_kinds[attr.kind] end
  if #attr.choices > 60 then return "string" end -- too many for a line: the doc lists them
  return (attr.choices:gsub("[^|]+", "\"%0\""))
end

local function wrap_comment(lines, text)
  local line = "---"
  for word in text:gmatch "%S+" do
    if #line + #word > 96 then
      lines[#lines + 1] = line
      line = "---"
    end
    line = line == "---" and line .. word or line .. " " .. word
  end
  lines[#lines + 1] = line
end

--- A field, its description above it where the line would be long.
local function add_field(lines, name, kind, doc)
  local line = ("---@field %s %s %s"):format(name, kind, doc or ""):gsub("%s+$", "")
  if #line > 100 then
    wrap_comment(lines, doc)
    line = ("---@field %s %s"):format(name, kind)
  end
  lines[#lines + 1] = line
end

--- The text of a table's default, or nil where it says nothing.
local function default_text(attr)
  if attr.required then return "required" end
  if attr.kind == "bool" then return attr.default == 0 and "false" or "true" end
  if attr.kind == "dim" or attr.kind == "new_dim" then
    if attr.default == ALL then return nil end
    return ("%d"):format(attr.default >= 0 and attr.default + 1 or attr.default)
  end
  if attr.kind == "index" or attr.kind == "dims" or attr.kind == "ints" then return nil end
  if attr.kind == "choice" then
    local i = 0
    for word in attr.choices:gmatch "[^|]+" do
      if i == attr.default then return word end
      i = i + 1
    end
  end
  return ("%g"):format(attr.default)
end

--- A doc with the default behind it, where there is one to tell.
local function with_default(doc, default)
  if not default or default == "" then return doc end
  return doc .. (default == "required" and " (required)" or " (default " .. default .. ")")
end

-- ---- annotations --------------------------------------------------------------------

local HEAD = [[
---@meta performer
-- Generated by .ci/gen_api.lua from the engine's tables and .ci/api.lua; never required.
-- luacheck: ignore

---@class pf.DtypeOptions
---@field dtype? "f32"|"i32"

---@class pf.OpenOptions
---@field threads? integer
---@field memory? integer|string
---@field seed? integer
---@field cpu? "generic"|"avx2"|"avx512"|"best"
---@field log? fun(level: string, message: string)
---@field log_level? "debug"|"info"|"warn"|"silent"
---@field limits? pf.Limits

---@class pf.Limits
---@field bytes? integer|string
---@field work? number
---@field seconds? number
---@field depth? integer

---@class pf.Memory
---@field live integer
---@field peak integer

---@class pf.Pass
---@field training? boolean
---@field step? integer
---@field mask? pf.Tensor
---@field documents? pf.Tensor
---@field prefix? pf.Tensor
---@field watch? boolean
---@field again? boolean
---@field [string] pf.Tensor what layers read beside x, by its name

---@class pf.AttentionOptions
---@field kernel? pf.Kernel|string|table
---@field causal? boolean
---@field mask? pf.Tensor
---@field documents? pf.Tensor
---@field decay? pf.Tensor
---@field state? boolean
---@field entry? {s: pf.Tensor, z: pf.Tensor, shift: pf.Tensor}
---@field scale? number

---@class pf.Sampling
---@field temperature? number
---@field top_k? integer
---@field top_p? number
---@field min_p? number
---@field repetition_penalty? number
---@field seed? integer

---@class pf.GenerateOptions: pf.Sampling
---@field prompt string|pf.Tensor|integer[]
---@field tokens? integer
---@field tokenizer? pf.Tokenizer|string
---@field stop? integer|string|(integer|string)[]
---@field allow? integer[]
---@field each? fun(id: integer): boolean?

---@class pf.Batch
---@field input pf.Tensor
---@field target pf.Tensor
---@field documents pf.Tensor
---@field mask? pf.Tensor
---@field rows integer
---@field tokens integer

---@class pf.Tensor
---@operator add(pf.Tensor|number): pf.Tensor
---@operator sub(pf.Tensor|number): pf.Tensor
---@operator mul(pf.Tensor|number): pf.Tensor
---@operator div(pf.Tensor|number): pf.Tensor
---@operator idiv(pf.Tensor|number): pf.Tensor
---@operator mod(pf.Tensor|number): pf.Tensor
---@operator pow(pf.Tensor|number): pf.Tensor
---@operator unm: pf.Tensor
---@operator len: integer
---@field [integer] pf.Tensor
local Tensor = {}

---@class pf.Tape
local Tape = {}

---@class pf.Kernel
local Kernel = {}

---@class pf.State
local State = {}

---@class pf.Module
---@operator call(pf.Tensor|table): pf.Tensor
---@operator len: integer
local Module = {}

---@class pf.Items
local Items = {}

---@class pf.Stream
local Stream = {}

---@class pf.Serving
local Serving = {}

---@class pf.Served
---@field id integer
---@field token? integer
---@field ended? "stop"|"tokens"|"failed"
---@field message? string
---@field code? string

---@class pf.SequenceInfo
---@field position integer
---@field waiting integer
---@field tokens integer
---@field bytes integer
---@field last? integer
---@field ended? "stop"|"tokens"|"failed"
---@field message? string
---@field code? string

---@class pf.Optimizer
local Optimizer = {}

---@class pf.Ranks
---@field rank integer
---@field size integer
---@field local_rank integer
---@field local_size integer
---@field transport? string
---@field hosts string[]
---@field warnings string
local Ranks = {}

---@class pf.Data
local Data = {}

---@class pf.Pattern
local Pattern = {}

---@class pf.PatternQuestion
---@field causal? boolean
---@field keys? integer
---@field limits? pf.Tensor
---@field head? integer
---@field buckets? pf.Tensor

---@class pf.Tokenizer
---@field type string
local Tokenizer = {}

---@class pf.Graph
---@field nodes integer
---@field keys integer
---@field count integer
---@field edges pf.Tensor
local Graph = {}

local pf = { version = "" }
]]

local function add_function(lines, name, list, result, doc)
  lines[#lines + 1] = ""
  wrap_comment(lines, doc)
  local names = {}
  for i, p in ipairs(list) do
    names[i] = p.name
    lines[#lines + 1] = ("---@param %s%s %s"):format(p.name, p.optional and "?" or "", p.kind)
  end
  if result ~= "" then lines[#lines + 1] = "---@return " .. result end
  lines[#lines + 1] = ("function %s(%s) end"):format(name, table.concat(names, ", "))
end

local function add_op(lines, op)
  local fields, list = { "---@class pf.Options." .. op.name }, {}
  for i, input in ipairs(inputs(op)) do
    if i == 2 and op.place_inputs ~= 0 then list[i] = { name = "dim", kind = "integer" } end
    if input.optional then
      fields[#fields + 1] = ("---@field %s? pf.Tensor"):format(input.name)
    else
      local kind = op.max_inputs > #inputs(op) and "pf.Tensor[]" or "pf.Tensor"
      list[#list + 1] = { name = input.name, kind = kind }
    end
  end
  for _, attr in ipairs(op.attrs) do
    add_field(fields, attr.name .. "?", attr_kind(attr), with_default(attr.doc, default_text(attr)))
  end
  if #fields > 1 then
    lines[#lines + 1] = ""
    table.move(fields, 1, #fields, #lines + 1, lines)
    list[#list + 1] = { name = "...", kind = "any" }
  end
  local results = {}
  for i = 1, op.outputs do results[i] = i == 1 and "pf.Tensor" or "pf.Tensor?" end
  local result = table.concat(results, ", ")
  add_function(lines, "pf." .. op.name, list, result, op.doc)
  add_function(lines, "Tensor:" .. op.name, { table.unpack(list, 2) }, result, op.doc)
  if op.in_place then
    add_function(lines, "Tensor:" .. op.in_place, { table.unpack(list, 2) }, result,
      "The same in place: new numbers of the tensor itself, which keeps its shape.")
  end
end

local function add_options_class(lines, class, options)
  lines[#lines + 1] = ""
  lines[#lines + 1] = "---@class " .. class
  for _, option in ipairs(options) do
    local kind, doc = lua_kinds[option.kind], option.doc
    doc = with_default(doc, option.required and "required" or option.default)
    if option.choices then kind = option.choices:gsub("[^|]+", "\"%0\"") end
    if #kind > 80 then kind, doc = "string", doc .. ": " .. option.choices end -- too long
    if option.name == "kernel" then kind = "pf.Kernel|string|table" end
    add_field(lines, option.name .. (option.required and "" or "?"), kind, doc)
  end
end

local function make_annotations()
  local lines = { HEAD }
  for _, space in ipairs { "term", "check", "kernel", "attention", "pattern", "nn", "optim",
    "schedule", "data", "tokenizer", "checkpoint", "json" } do
    lines[#lines + 1] = ("pf.%s = {}"):format(space)
  end
  lines[#lines + 1] = "pf.json.null = nil"
  for _, section in ipairs(api) do
    for _, entry in ipairs(section) do
      add_function(lines, entry[1], parameters(entry[2]), entry[3], entry[4])
    end
  end
  add_options_class(lines, "pf.KernelOptions", tree.kernel.options)
  lines[#lines + 1] = "---@field projection? pf.Tensor (features, head_dim), instead of drawing one"
  for _, map in ipairs(maps) do
    add_function(lines, "pf.kernel." .. map.name,
      { { name = "options", kind = "pf.KernelOptions", optional = true } }, "pf.Kernel", map.doc)
  end
  for _, layer in ipairs(layers) do
    add_options_class(lines, "pf.Options.nn." .. layer.type, layer.options)
    add_function(lines, "pf.nn." .. layer.type,
      { { name = "options", kind = "pf.Options.nn." .. layer.type, optional = true } },
      "pf.Module", layer.doc)
  end
  for _, row in ipairs(optimizers) do
    local class = "pf.Options.optim." .. row.name
    add_options_class(lines, class, row.options)
    add_function(lines, "pf.optim." .. row.name,
      { { name = "model", kind = "pf.Module|table" },
        { name = "options", kind = class, optional = true } }, "pf.Optimizer", row.doc)
  end
  for _, row in ipairs(schedules) do
    local class = "pf.Options.schedule." .. row.name
    add_options_class(lines, class, row.options)
    add_function(lines, "pf.schedule." .. row.name, { { name = "options", kind = class } },
      "fun(step: integer): number", row.doc)
  end
  for _, row in ipairs(patterns) do
    local class = "pf.Options.pattern." .. row.name
    add_options_class(lines, class, row.options)
    add_function(lines, "pf.pattern." .. row.name,
      { { name = "options", kind = class, optional = true } }, "pf.Pattern", row.doc)
  end
  for _, op in ipairs(ops) do add_op(lines, op) end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "return pf"
  return table.concat(lines, "\n") .. "\n"
end

-- ---- README tables ------------------------------------------------------------------

local function cell(text) return (text:gsub("|", "\\|"):gsub("%s+", " ")) end

local function signature(entry)
  local parts = {}
  for i, p in ipairs(parameters(entry[2])) do
    local name = (i > 1 and ", " or "") .. p.name
    parts[i] = p.optional and (i > 1 and " [" .. name .. "]" or "[" .. name .. "]") or name
  end
  return ("%s(%s)"):format(entry[1]:gsub("^(%u)(%w*):", function(a, b)
    return a:lower() .. b .. ":"
  end), table.concat(parts))
end

local function section_table(section)
  local rows = { "| call | does |", "| --- | --- |" }
  for _, entry in ipairs(section) do
    rows[#rows + 1] = ("| `%s` | %s |"):format(cell(signature(entry)), cell(entry[4]))
  end
  return rows
end

--- The inputs of an op as they are written: before positions stands the dimension they belong to.
local function written_args(op)
  if op.place_inputs == 0 then return op.args end
  return (op.args:gsub(", ", ", dim, ", 1))
end

local function ops_table()
  local rows = { "| op | options | what it is |", "| --- | --- | --- |" }
  for _, op in ipairs(ops) do
    local attrs = {}
    for i, attr in ipairs(op.attrs) do
      local default = default_text(attr)
      attrs[i] = ("`%s`%s"):format(attr.name, default and " (" .. default .. ")" or "")
    end
    local doc = op.doc .. (op.in_place and (" In place: `t:%s`."):format(op.in_place) or "")
    rows[#rows + 1] = ("| `%s(%s)`%s | %s | %s |"):format(op.name, cell(written_args(op)),
      op.differentiable and "" or " no gradient", cell(table.concat(attrs, ", ")), cell(doc))
  end
  return rows
end

local function option_rows(rows, options)
  for _, option in ipairs(options) do
    local default = option.required and "required" or option.default or ""
    rows[#rows + 1] = ("| | `%s` | %s | %s |"):format(option.name, default == "" and "" or
      cell(default), cell((option.doc or "") .. (option.choices and ": " .. option.choices or "")))
  end
end

local function layers_table()
  local rows = { "| layer | option | default | what it is |", "| --- | --- | --- | --- |" }
  for _, layer in ipairs(layers) do
    rows[#rows + 1] = ("| **`nn.%s`** | | | %s |"):format(layer.type, cell(layer.doc))
    option_rows(rows, layer.options)
    for _, input in ipairs(layer.inputs or {}) do
      rows[#rows + 1] = ("| | input `%s` | %s | %s |"):format(input.name,
        input.required and "required" or "", cell(input.doc))
    end
  end
  return rows
end

local function kernels_table()
  local rows = { "| kernel | option | default | what it is |", "| --- | --- | --- | --- |" }
  for _, map in ipairs(maps) do
    rows[#rows + 1] = ("| **`pf.kernel.%s`** | | | %s |"):format(map.name, cell(map.doc))
  end
  option_rows(rows, tree.kernel.options)
  rows[#rows + 1] = "| | `projection` | | a tensor (features, head_dim), instead of drawing one |"
  return rows
end

local function kinds_table()
  local rows = { "| attention | kernel | streams | parts | weights | auto | what it is |",
    "| --- | --- | --- | --- | --- | --- | --- |" }
  local own = { "| of its own | option | default | what it is |", "| --- | --- | --- | --- |" }
  local function mark(value) return value and "yes" or "" end
  for _, kind in ipairs(tree.attention) do
    local streams = kind.streams and (kind.state_slides and "state of a window"
      or kind.state_grows and "state grows" or "constant state") or ""
    rows[#rows + 1] = ("| **`%s`** | %s | %s | %s | %s | %s | %s |"):format(kind.name,
      mark(kind.takes_kernel), streams, mark(kind.trains_in_parts), mark(kind.tells_weights),
      mark(kind.auto), cell(kind.doc))
    if #kind.options > 0 then
      own[#own + 1] = ("| **`%s`** | | | |"):format(kind.name)
      option_rows(own, kind.options)
    end
  end
  rows[#rows + 1] = ""
  return table.move(own, 1, #own, #rows + 1, rows)
end

--- The options that every row has with the same words, and of each row the others.
local function split_shared(list)
  local shared, own = {}, {}
  local function is_shared(option)
    for _, row in ipairs(list) do
      local found = false
      for _, other in ipairs(row.options) do
        found = found or other.name == option.name and other.doc == option.doc and
          other.default == option.default
      end
      if not found then return false end
    end
    return true
  end
  for i, row in ipairs(list) do
    own[i] = {}
    for _, option in ipairs(row.options) do
      local to = is_shared(option) and (i == 1 and shared or {}) or own[i]
      to[#to + 1] = option
    end
  end
  return shared, own
end

--- A table of rows with options of their own, and of those that all have.
local function rows_table(list, what, space, arguments)
  local rows = { ("| %s | option | default | what it is |"):format(what),
                 "| --- | --- | --- | --- |" }
  local shared, own = split_shared(list)
  for i, row in ipairs(list) do
    rows[#rows + 1] = ("| **`pf.%s.%s(%s)`** | | | %s |"):format(space, row.name, arguments,
      cell(row.doc))
    option_rows(rows, own[i])
  end
  if #shared > 0 then rows[#rows + 1] = "| all of them | | | |" end
  option_rows(rows, shared)
  return rows
end

--- The README with every part between its markers made anew.
local function make_readme(text)
  local parts = { ops = ops_table(), layers = layers_table(), kernels = kernels_table(),
    kinds = kinds_table(),
    optimizers = rows_table(optimizers, "optimizer", "optim", "model, options"),
    schedules = rows_table(schedules, "schedule", "schedule", "options"),
    patterns = rows_table(patterns, "pattern", "pattern", "options") }
  for _, section in ipairs(api) do parts[section.id] = section_table(section) end
  local used = {}
  local fresh = text:gsub("(<!%-%- generated: (%w+) %-%->\n)(.-)(<!%-%- end %-%->)",
    function(open, id, _, close)
      assert(parts[id], "README.md: no generated part is called " .. id)
      used[id] = true
      return open .. table.concat(parts[id], "\n") .. "\n" .. close
    end)
  for id in pairs(parts) do
    assert(used[id], ("README.md: the markers of part %s are missing"):format(id))
  end
  return fresh
end

-- ---- main ---------------------------------------------------------------------------

local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text
end

local function main()
  local problems, check = check_coverage(), arg[1] == "--check"
  for _, problem in ipairs(problems) do io.stderr:write("gen_api: ", problem, "\n") end
  local old = read(README)
  local files = { [NOTES] = make_annotations(), [README] = make_readme(old) }
  local stale = #problems
  for path, text in pairs(files) do
    if read(path) ~= text then
      if check then
        io.stderr:write("gen_api: ", path, " is not up to date: lua5.4 .ci/gen_api.lua\n")
        stale = stale + 1
      else
        local file = assert(io.open(path, "wb"))
        file:write(text)
        file:close()
      end
    end
  end
  os.exit(stale == 0 and 0 or 1)
end

main()
