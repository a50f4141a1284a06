-- performer/repl/reference.lua: what the reference says of each name, read from the annotations
-- that editors read (made by .ci/gen_api.lua): the prompt's `?` and completion of options have no
-- other source.
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

local loaded

--- The reference of this installation, or an empty one where its file is missing.
function reference.get()
  if loaded then return loaded end
  local here = debug.getinfo(1, "S").source:match "^@(.*)performer/repl/[^/]*$" or "./"
  local file = io.open(here .. "../annotations/performer.lua", "rb")
  loaded = reference.parse(file and file:read "a" or "")
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
