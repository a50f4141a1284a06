-- performer/repl/reference.lua: what the reference says of each name, read from the annotations
-- that editors read (made by .ci/gen_api.lua). Where that file is missing it is what the engine
-- says of its own ops, layers, optimizers and schedules.
local core = require "performer.core"

local reference = {}

local function class_of(line)
  local name, parent = line:match "^%-%-%-@class ([%w_.]+):?%s*([%w_.]*)"
  return name, { name = name, parent = parent ~= "" and parent or nil, fields = {} }
end

--- "name? type words of it" of a field or parameter.
local function entry_of(text, doc)
  local name, optional, rest = text:match "^([%w_.]+)(%??)%s+(.*)$"
  if not name then return nil end
  local kind, words = rest:match '^(fun%b()%S*)%s*(.*)$'
  if not kind then kind, words = rest:match '^(%b{})%s*(.*)$' end
  if not kind then kind, words = rest:match '^(%S+)%s*(.*)$' end
  return { name = name, optional = optional == "?", kind = kind or "",
           doc = words ~= "" and words or doc }
end

--- { functions = { [name] = { name, doc, parameters, result } }, order = names, classes }.
function reference.parse(text)
  local made = { functions = {}, order = {}, classes = {} }
  local docs, params, result, class = {}, {}, nil, nil
  local function words()
    local doc = table.concat(docs, " ")
    docs = {}
    return doc
  end
  for line in text:gmatch "[^\n]+" do
    local field, param = line:match "^%-%-%-@field (.*)", line:match "^%-%-%-@param (.*)"
    local name = line:match "^function ([%w_.:]+)%("
    if line:find "^%-%-%-@class" then
      local class_name
      class_name, class = class_of(line)
      made.classes[class_name] = class
      docs = {}
    elseif field then
      if class then class.fields[#class.fields + 1] = entry_of(field, words()) end
    elseif param then
      params[#params + 1] = entry_of(param)
    elseif line:find "^%-%-%-@return" then
      result = line:match "^%-%-%-@return (.*)"
    elseif name then
      made.functions[name] = { name = name, doc = words(), parameters = params, result = result }
      made.order[#made.order + 1] = name
      params, result, class = {}, nil, nil
    elseif line:find "^%-%-%-[^@]" then
      docs[#docs + 1] = line:sub(4)
    elseif not line:find "^%-%-%-@" then
      docs, class = {}, nil
    end
  end
  return made
end

-- ---- without the file ----------------------------------------------------------------

local KINDS = { int = "integer", bool = "boolean", dim = "integer", index = "integer",
                tree = "table" }

--- Options as the engine describes them.
local function described_options(rows)
  local list = {}
  for i, row in ipairs(rows or {}) do
    local words = row.choices and '"' .. row.choices:gsub("|", '"|"') .. '"'
    list[i] = { name = row.name, kind = words or KINDS[row.kind] or row.kind, doc = row.doc,
                optional = not row.required }
  end
  return list
end

--- The functions of which the engine has a description, in a reference's form.
local function described()
  local pf = require "performer"
  local made = { functions = {}, order = {}, classes = {} }
  local function add(name, doc, parameters, options, result)
    if #options > 0 then parameters[#parameters + 1] = { name = "...", kind = "any" } end
    made.functions[name] = { name = name, doc = doc, parameters = parameters, result = result,
                             options = options }
    made.order[#made.order + 1] = name
  end
  for _, op in ipairs(pf.ops()) do
    local inputs, options = {}, described_options(op.attrs)
    for name in op.args:gmatch "[%w_]+" do
      inputs[#inputs + 1] = { name = name, kind = "pf.Tensor" }
    end
    local rest = table.move(inputs, 2, #inputs, 1, {})
    if rawget(pf, op.name) then add("pf." .. op.name, op.doc, inputs, options, "pf.Tensor") end
    if core.methods "performer.tensor"[op.name] then
      add("Tensor:" .. op.name, op.doc, rest, options, "pf.Tensor")
    end
  end
  for space, rows in pairs { nn = pf.layers(), optim = pf.optimizers(),
                             schedule = pf.schedules() } do
    for _, row in ipairs(rows) do
      add(("pf.%s.%s"):format(space, row.type or row.name), row.doc or "",
        { space == "optim" and { name = "model", kind = "any" } or nil },
        described_options(row.options))
    end
  end
  table.sort(made.order)
  return made
end

-- ---- the reference -------------------------------------------------------------------

local here = debug.getinfo(1, "S").source:match "^@(.*)performer/repl/[^/]*$" or "./"

--- Where its file should be.
reference.path = here .. "../annotations/performer.lua"

local loaded

--- The reference of this installation; `missing` where its file is.
function reference.get()
  if loaded then return loaded end
  local file = io.open(reference.path, "rb")
  loaded = file and reference.parse(file:read "a") or described()
  loaded.missing = not file
  if file then file:close() end
  return loaded
end

--- Adds the fields of a class, and of what it is a kind of, to the list.
local function add_fields(list, class, seen)
  local known = reference.get().classes[class]
  if not known or seen[class] then return end
  seen[class] = true
  for _, field in ipairs(known.fields) do
    if not seen[field.name] then list[#list + 1] = field end
    seen[field.name] = true
  end
  if known.parent then add_fields(list, known.parent, seen) end
end

--- The options of a function of the reference: a list of { name, kind, optional, doc }.
function reference.options(entry)
  if entry.options then return entry.options end
  local list, seen = {}, {}
  local op = entry.name:match "^pf%.([%w_]+)$" or entry.name:match "^Tensor:([%w_]+)$"
  if op then add_fields(list, "pf.Options." .. op, seen) end
  for _, parameter in ipairs(entry.parameters) do
    for class in parameter.kind:gmatch "pf%.[%w_.]+" do
      if class:find "Options" or class == "pf.Limits" or class == "pf.Sampling"
        or class == "pf.Pass" or class == "pf.PatternQuestion" then
        add_fields(list, class, seen)
      end
    end
  end
  return list
end

--- "pf.matmul(a, b [, options])".
function reference.call(entry)
  local parts = {}
  for i, parameter in ipairs(entry.parameters) do
    local comma = i > 1 and ", " or ""
    local any = parameter.name == "..." and parameter.kind == "any"
    local name = comma .. (any and "options" or parameter.name)
    local may = parameter.optional or any
    parts[i] = may and (i > 1 and " [" .. name .. "]" or "[" .. name .. "]") or name
  end
  return ("%s(%s)"):format(entry.name, table.concat(parts))
end

return reference
