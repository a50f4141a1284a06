-- op_calls.lua - a case of cases.lua as a call of its op, for specs that loop over the table.
local pf = require "performer"
local array = require "spec.support.array"
local calls = {}

--- The names of an op's inputs, in their order.
local function argument_names(op)
  local names = {}
  for name in op.args:gmatch "[%w_]+" do names[#names + 1] = name end
  return names
end

--- Calls the op: required inputs by position, optional ones and attributes by name.
function calls.call(op, inputs, attrs)
  local options, positional = {}, {}
  for name, value in pairs(attrs or {}) do options[name] = value end
  if inputs.tensors then return pf[op.name](inputs.tensors, options) end
  for i, name in ipairs(argument_names(op)) do
    if i <= op.min_inputs then
      positional[i] = inputs[name]
    else
      options[name] = inputs[name]
    end
  end
  positional[op.min_inputs + 1] = options
  return pf[op.name](table.unpack(positional, 1, op.min_inputs + 1))
end

--- The case's inputs as tensors; those named in `compact` take no strides.
function calls.tensors_of(case, layout)
  local tensors = {}
  for name, x in pairs(case[1]) do
    if name == "tensors" then
      tensors.tensors = {}
      for i, each in ipairs(x) do tensors.tensors[i] = array.tensor(each, layout) end
    else
      local plain = case.compact and case.compact[name]
      tensors[name] = array.tensor(x, plain and "plain" or layout)
    end
  end
  return tensors
end

--- A short description of a case, for messages.
function calls.text_of(op, case)
  local parts = {}
  for name, x in pf.sorted(case[1]) do
    for _, each in ipairs(name == "tensors" and x or { x }) do
      parts[#parts + 1] = name .. " " .. array.shape_text(each)
    end
  end
  for name, value in pf.sorted(case[2] or {}) do
    local text = type(value) == "table" and "{" .. table.concat(value,
      ", ") .. "}" or tostring(value)
    parts[#parts + 1] = name .. " = " .. text
  end
  return op.name .. ": " .. table.concat(parts, ", ")
end

--- The f32 inputs of a case that have a gradient, as a list of their names.
local function differentiable(case)
  local names = {}
  for name, x in pf.sorted(case[1]) do
    local list = name == "tensors"
    local fits = list and x[1].dtype == "f32" or not list and x.dtype == "f32"
    if fits and not (case.fixed and case.fixed[name]) then names[#names + 1] = name end
  end
  return names
end

--- The list of {name, array, tensor} that gradients are wanted for.
function calls.leaves_of(case, tensors)
  local leaves = {}
  for _, name in ipairs(differentiable(case)) do
    local xs, ts = case[1][name], tensors[name]
    if name ~= "tensors" then xs, ts = { xs }, { ts } end
    for i, x in ipairs(xs) do leaves[#leaves + 1] = { name = name, x = x, t = ts[i] } end
  end
  return leaves
end

return calls
