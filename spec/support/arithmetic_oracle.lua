-- arithmetic_oracle.lua - of oracle.lua, whose rules hold here too: comparisons, choices, whole
-- numbers, and what is summed up along a dimension. Given the tools of oracle.lua for lines.
local array = require "spec.support.array"

local NAN = 0 / 0

--- f of the elements of the named inputs, which broadcast; of the dtype `dtype`, or of the last.
local function pointwise(names, f, dtype)
  return function(x)
    local shape, inputs = {}, {}
    for k, name in ipairs(names) do
      inputs[k] = x[name]
      local own = x[name].shape
      local rank = math.max(#shape, #own)
      local both = {}
      for d = 1, rank do
        local m, n = shape[d - rank + #shape] or 1, own[d - rank + #own] or 1
        both[d] = m == 1 and n or m
      end
      shape = both
    end
    local strides = array.strides(shape)
    return { array.new(shape, function(i)
      local values = {}
      for k, input in ipairs(inputs) do
        local offset, skip = 0, #shape - #input.shape
        for d = 1, #input.shape do
          local at = (i - 1) // strides[d + skip] % shape[d + skip]
          offset = offset * input.shape[d] + (input.shape[d] == 1 and 0 or at)
        end
        values[k] = input[offset + 1]
      end
      return f(table.unpack(values))
    end, dtype or inputs[#inputs].dtype) }
  end
end

local function question(names, f)
  return pointwise(names, function(...) return f(...) and 1 or 0 end, "i32")
end

local AB, X = { "a", "b" }, { "x" }

local function wrap(x) return (x + 2147483648) % 4294967296 - 2147483648 end

local function nearest(x)
  local low = math.floor(x)
  local over = x - low
  if over ~= 0.5 then return over < 0.5 and low or low + 1 end
  return low % 2 == 0 and low or low + 1
end

--- f of what is neither NaN nor infinite; they are themselves.
local function of_finite(f)
  return pointwise(X, function(x) return array.is_finite(x) and f(x) or x end)
end

return function(tools)
  local reduction, each_line, dim_of = tools.reduction, tools.each_line, tools.dim_of
  local oracle = {}

  -- ---- comparisons, logic, choices ---------------------------------------------------------

  oracle.eq = question(AB, function(a, b) return a == b end)
  oracle.ne = question(AB, function(a, b) return a ~= b end)
  oracle.lt = question(AB, function(a, b) return a < b end)
  oracle.le = question(AB, function(a, b) return a <= b end)
  oracle.gt = question(AB, function(a, b) return a > b end)
  oracle.ge = question(AB, function(a, b) return a >= b end)
  oracle.logical_and = question(AB, function(a, b) return a ~= 0 and b ~= 0 end)
  oracle.logical_or = question(AB, function(a, b) return a ~= 0 or b ~= 0 end)
  oracle.logical_xor = question(AB, function(a, b) return (a ~= 0) ~= (b ~= 0) end)
  oracle.logical_not = question(X, function(x) return x == 0 end)
  oracle.isnan = question(X, function(x) return x ~= x end)
  oracle.isinf = question(X, function(x) return math.abs(x) == math.huge end)
  oracle.isfinite = question(X, array.is_finite)
  oracle.where = pointwise({ "cond", "a", "b" }, function(cond, a, b)
    if cond ~= 0 then return a end
    return b
  end)

  function oracle.cast(x, o)
    return { array.new(x.x.shape, function(i)
      if o.dtype == "f32" or x.x.dtype == "i32" then return x.x[i] end
      return x.x[i] < 0 and math.ceil(x.x[i]) or math.floor(x.x[i])
    end, o.dtype) }
  end

  -- ---- elements --------------------------------------------------------------------------

  oracle.minimum = pointwise(AB, function(a, b)
    if a ~= a or b ~= b then return NAN end
    return a < b and a or b
  end)
  oracle.floor_divide = pointwise(AB, function(a, b)
    local y = a // b
    return math.type(a) == "integer" and wrap(y) or y
  end)
  oracle.remainder = pointwise(AB, function(a, b) return a % b end)
  oracle.sign = pointwise(X, function(x) return x > 0 and 1 or x < 0 and -1 or x end)
  oracle.floor = of_finite(math.floor)
  oracle.ceil = of_finite(math.ceil)
  oracle.round = of_finite(nearest)
  oracle.reciprocal = pointwise(X, function(x) return 1 / x end)
  oracle.rsqrt = pointwise(X, function(x) return x < 0 and NAN or 1 / x ^ 0.5 end)

  function oracle.clamp(x, o)
    return pointwise(X, function(value)
      if o.min and value < o.min then return o.min end
      if o.max and value > o.max then return o.max end
      return value
    end)(x)
  end

  -- ---- along a dimension -----------------------------------------------------------------

  local function place(list, better)
    local best = 1
    for i = 1, #list do
      if list[i] ~= list[i] then return i end
      if better(list[i], list[best]) then best = i end
    end
    return best
  end
  local function less(a, b) return a < b end

  oracle.min = reduction(function(list) return list[place(list, less)] end)
  oracle.argmin = reduction(function(list) return place(list, less) end, "i32")
  oracle.any = reduction(function(list)
    for i = 1, #list do
      if list[i] ~= 0 then return 1 end
    end
    return 0
  end)
  oracle.all = reduction(function(list)
    for i = 1, #list do
      if list[i] == 0 then return 0 end
    end
    return 1
  end)
  oracle.prod = reduction(function(list)
    local product = 1
    for i = 1, #list do product = product * list[i] end
    return product
  end)

  local function variance(list, unbiased)
    local mean, sum = 0.0, 0.0
    for i = 1, #list do mean = mean + list[i] / #list end
    for i = 1, #list do sum = sum + (list[i] - mean) ^ 2 end
    return sum / (unbiased == false and #list or #list - 1)
  end

  function oracle.var(x, o)
    return reduction(function(list) return variance(list, o.unbiased) end)(x, o)
  end

  function oracle.std(x, o)
    return reduction(function(list) return variance(list, o.unbiased) ^ 0.5 end)(x, o)
  end

  function oracle.norm(x, o)
    local p = o.p or 2
    return reduction(function(list)
      local top, sum = 0.0, 0.0
      for i = 1, #list do
        local size = math.abs(list[i])
        if size ~= size then return NAN end
        top = math.max(top, size)
        sum = sum + size ^ p
      end
      return p == math.huge and top or sum ^ (1 / p)
    end)(x, o)
  end

  function oracle.cumsum(x, o)
    local y = array.new(x.x.shape, nil, x.x.dtype)
    each_line(x.x, dim_of(o.dim or -1, #x.x.shape), function(line, first, step)
      local sum = 0
      for i = 1, #line do
        sum = sum + line[i]
        y[first + (i - 1) * step + 1] = sum
      end
    end)
    return { y }
  end

  return oracle
end
