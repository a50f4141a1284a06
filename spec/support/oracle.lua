-- oracle.lua - every op of the table once more, in double precision and plain Lua, written
-- from the formula in its doc and from nothing else. oracle[name](inputs by name, attributes)
-- returns the outputs as arrays (support/array.lua). Dimensions count from 1, as in Lua.
local array = require "spec.support.array"

local oracle = {}

-- ---- helpers ---------------------------------------------------------------------------

local function dim_of(dim, rank) return dim < 0 and dim + rank + 1 or dim end

--- Sizes before, along and after a dimension.
local function split(shape, dim)
  local before, after = 1, 1
  for d = 1, #shape do
    if d < dim then before = before * shape[d] end
    if d > dim then after = after * shape[d] end
  end
  return before, shape[dim], after
end

--- f(list of values along dim, first index, step) for every line; returns nothing.
local function each_line(x, dim, f)
  local before, n, after = split(x.shape, dim)
  for b = 0, before - 1 do
    for a = 0, after - 1 do
      local line, first = {}, b * n * after + a
      for i = 1, n do line[i] = x[first + (i - 1) * after + 1] end
      f(line, first, after, b * after + a + 1)
    end
  end
end

--- The offset in an array of `shape` for coordinates of the longer `full` shape.
local function broadcast_offset(shape, at, rank)
  local offset, skip = 0, rank - #shape
  for d = 1, #shape do
    offset = offset * shape[d] + (shape[d] == 1 and 0 or at[d + skip])
  end
  return offset
end

local function broadcast_shape(a, b)
  local shape, rank = {}, math.max(#a, #b)
  for d = 1, rank do
    local x, y = a[d - rank + #a] or 1, b[d - rank + #b] or 1
    shape[d] = x == 1 and y or x
  end
  return shape
end

--- Coordinates (from 0) of element i (from 0).
local function coordinates(i, shape)
  local at = {}
  for d = #shape, 1, -1 do
    at[d] = i % shape[d]
    i = i // shape[d]
  end
  return at
end

local function map(x, f)
  return array.new(x.shape, function(i) return f(x[i]) end, x.dtype)
end

-- ---- elementwise -----------------------------------------------------------------------

local function wrap(x)
  return (x + 2147483648) % 4294967296 - 2147483648
end

local function binary(f)
  return function(x)
    local a, b = x.a, x.b
    local shape = broadcast_shape(a.shape, b.shape)
    local rank = #shape
    return { array.new(shape, function(i)
      local at = coordinates(i - 1, shape)
      local y = f(a[broadcast_offset(a.shape, at, rank) + 1],
                  b[broadcast_offset(b.shape, at, rank) + 1])
      return a.dtype == "i32" and wrap(y) or y
    end, a.dtype) }
  end
end

oracle.add = binary(function(a, b) return a + b end)
oracle.sub = binary(function(a, b) return a - b end)
oracle.mul = binary(function(a, b) return a * b end)
oracle.div = binary(function(a, b) return a / b end)
oracle.pow = binary(function(a, b) return a ^ b end)
oracle.maximum = binary(function(a, b)
  if a ~= a or b ~= b then return 0 / 0 end
  return a > b and a or b
end)

local function unary(f)
  return function(x) return { map(x.x, f) } end
end

--- erf: its series up to 3, beyond that 1 minus a continued fraction.
local function erf(x)
  local size = math.abs(x)
  if size > 6 then return x > 0 and 1.0 or -1.0 end
  if size < 3 then
    local term, sum, n = x, x, 0
    repeat
      n = n + 1
      term = -term * x * x / n
      sum = sum + term / (2 * n + 1)
    until math.abs(term) < 1e-18
    return 2 / math.sqrt(math.pi) * sum
  end
  local tail = size
  for k = 60, 1, -1 do tail = size + k / 2 / tail end
  local value = 1 - math.exp(-size * size) / math.sqrt(math.pi) / tail
  return x > 0 and value or -value
end

local function sigmoid(x) return 1 / (1 + math.exp(-x)) end

local function tanh(x)
  local e = math.exp(-2 * math.abs(x))
  local y = (1 - e) / (1 + e)
  return x < 0 and -y or y
end

oracle.neg = unary(function(x) return -x end)
oracle.exp = unary(math.exp)
oracle.log = unary(math.log)
oracle.sqrt = unary(function(x) return x ^ 0.5 end)
oracle.square = unary(function(x) return x * x end)
oracle.tanh = unary(tanh)
oracle.sigmoid = unary(sigmoid)
oracle.relu = unary(function(x) return x > 0 and x or x ~= x and x or 0 end)
oracle.requ = unary(function(x) return x > 0 and x * x or x ~= x and x or 0 end)
oracle.gelu = unary(function(x) return x * (1 + erf(x / math.sqrt(2))) / 2 end)
oracle.gelu_tanh = unary(function(x)
  return x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3))) / 2
end)
oracle.silu = unary(function(x) return x * sigmoid(x) end)
oracle.elu = unary(function(x) return x > 0 and x or math.exp(x) - 1 end)
oracle.abs = unary(math.abs)
oracle.cos = unary(math.cos)
oracle.sin = unary(math.sin)

function oracle.affine(x, o)
  local scale, shift = o.scale or 1, o.shift or 0
  return { map(x.x, function(value) return scale * value + shift end) }
end

-- ---- reductions and normalisations -----------------------------------------------------

local function reduction(f, dtype)
  return function(x, o)
    local whole, shape = x.x, {}
    local dim = o.dim and dim_of(o.dim, #whole.shape)
    for d = 1, #whole.shape do
      local lost = not dim or d == dim
      if o.keep or not lost then shape[#shape + 1] = lost and 1 or whole.shape[d] end
    end
    local y = array.new(shape, nil, dtype or whole.dtype)
    if not dim then
      y[1] = f(whole)
    else
      each_line(whole, dim, function(line, _, _, at) y[at] = f(line) end)
    end
    return { y }
  end
end

local function sum_of(list)
  local sum = 0.0
  for i = 1, #list do sum = sum + list[i] end
  return sum
end

--- The position of the largest; the first NaN before all.
local function position_of(list)
  local best = 1
  for i = 1, #list do
    if list[i] ~= list[i] then return i end
    if list[i] > list[best] then best = i end
  end
  return best
end

local function logsumexp(list)
  if #list == 0 then return -math.huge end
  local top, sum = list[position_of(list)], 0
  if top == -math.huge then return top end
  for i = 1, #list do sum = sum + math.exp(list[i] - top) end
  return top + math.log(sum)
end

oracle.sum = reduction(sum_of)
oracle.mean = reduction(function(list) return sum_of(list) / #list end, "f32")
oracle.max = reduction(function(list) return list[position_of(list)] end)
oracle.argmax = reduction(position_of, "i32")
oracle.logsumexp = reduction(logsumexp)

--- y = f(value, logsumexp of its line) along dim.
local function normalised(f)
  return function(x, o)
    local y = array.new(x.x.shape)
    each_line(x.x, dim_of(o.dim or -1, #x.x.shape), function(line, first, step)
      local log = logsumexp(line)
      for i = 1, #line do y[first + (i - 1) * step + 1] = f(line[i], log) end
    end)
    return { y }
  end
end

oracle.softmax = normalised(function(value, log)
  return log == -math.huge and 0 or math.exp(value - log)
end)
oracle.log_softmax = normalised(function(value, log)
  return log == -math.huge and log or value - log
end)

local function norm(centred)
  return function(x, o)
    local y, eps = array.new(x.x.shape), array.round(o.eps or 1e-5)
    each_line(x.x, #x.x.shape, function(row, first)
      local n, mean, square = #row, 0, 0
      if centred then mean = sum_of(row) / n end
      for i = 1, n do square = square + (row[i] - mean) ^ 2 / n end
      for i = 1, n do
        y[first + i] = (row[i] - mean) / math.sqrt(square + eps) * x.weight[i] +
          (x.bias and x.bias[i] or 0)
      end
    end)
    return { y }
  end
end

oracle.layernorm = norm(true)
oracle.rmsnorm = norm(false)

--- The sum x + h, and its norm.
local function norm_of_sum(name)
  return function(x, o)
    local sum = array.new(x.x.shape, function(i) return x.x[i] + x.h[i] end)
    return { sum, oracle[name]({ x = sum, weight = x.weight, bias = x.bias }, o)[1] }
  end
end

oracle.add_layernorm = norm_of_sum "layernorm"
oracle.add_rmsnorm = norm_of_sum "rmsnorm"

-- ---- products --------------------------------------------------------------------------

function oracle.matmul(x)
  local a, b = x.a, x.b
  local as, bs = { table.unpack(a.shape) }, { table.unpack(b.shape) }
  local row, column = #as == 1, #bs == 1
  if row then table.insert(as, 1, 1) end
  if column then bs[2] = 1 end
  local M, K, N = as[#as - 1], as[#as], bs[#bs]
  local abatch, bbatch = { table.unpack(as, 1, #as - 2) }, { table.unpack(bs, 1, #bs - 2) }
  local batch = broadcast_shape(abatch, bbatch)
  local values = {}
  for n = 0, array.numel(batch) - 1 do
    local at = coordinates(n, batch)
    local pa = broadcast_offset(abatch, at, #batch) * M * K
    local pb = broadcast_offset(bbatch, at, #batch) * K * N
    for i = 0, M - 1 do
      for j = 1, N do
        local sum = 0.0
        for k = 0, K - 1 do sum = sum + a[pa + i * K + k + 1] * b[pb + k * N + j] end
        values[#values + 1] = sum
      end
    end
  end
  if not row then batch[#batch + 1] = M end
  if not column then batch[#batch + 1] = N end
  return { array.new(batch, function(i) return values[i] end) }
end

local acts = { gelu = oracle.gelu, gelu_tanh = oracle.gelu_tanh, relu = oracle.relu,
  silu = oracle.silu, square_relu = oracle.requ }
function oracle.linear(x, o)
  local N, K = x.weight.shape[1], x.weight.shape[2]
  local shape = { table.unpack(x.x.shape) }
  shape[#shape] = N
  local y = array.new(shape, function(i)
    local row, n = (i - 1) // N, (i - 1) % N
    local sum = x.bias and x.bias[n + 1] or 0.0
    for k = 1, K do sum = sum + x.x[row * K + k] * x.weight[n * K + k] end
    return sum
  end)
  return acts[o.act] and acts[o.act]({ x = y }) or { y }
end

-- ---- movement --------------------------------------------------------------------------

function oracle.reshape(x, o)
  local shape, known, open = {}, 1, nil
  for d, size in ipairs(o.shape) do
    shape[d] = size
    if size == -1 then open = d else known = known * size end
  end
  if open then shape[open] = #x.x // known end
  return { array.new(shape, function(i) return x.x[i] end, x.x.dtype) }
end

local function permuted(x, order)
  local shape = {}
  for d = 1, #order do shape[d] = x.shape[order[d]] end
  local strides = array.strides(x.shape)
  return { array.new(shape, function(i)
    local at, offset = coordinates(i - 1, shape), 0
    for d = 1, #order do offset = offset + at[d] * strides[order[d]] end
    return x[offset + 1]
  end, x.dtype) }
end

function oracle.transpose(x, o)
  local order, rank = {}, #x.x.shape
  for d = 1, rank do order[d] = d end
  local a, b = dim_of(o.a or -2, rank), dim_of(o.b or -1, rank)
  order[a], order[b] = b, a
  return permuted(x.x, order)
end

function oracle.permute(x, o)
  local order = {}
  for d = 1, #o.order do order[d] = dim_of(o.order[d], #o.order) end
  return permuted(x.x, order)
end

function oracle.slice(x, o)
  local dim = dim_of(o.dim or 1, #x.x.shape)
  local before, n, after = split(x.x.shape, dim)
  local first, last = dim_of(o.first or 1, n), dim_of(o.last or -1, n)
  local shape, values = { table.unpack(x.x.shape) }, {}
  shape[dim] = last - first + 1
  for b = 0, before - 1 do
    for i = first, last do
      for a = 1, after do values[#values + 1] = x.x[(b * n + i - 1) * after + a] end
    end
  end
  return { array.new(shape, function(i) return values[i] end, x.x.dtype) }
end

function oracle.concat(x, o)
  local list, values, sum = x.tensors, {}, 0
  local shape = { table.unpack(list[1].shape) }
  local dim = dim_of(o.dim or 1, #shape)
  local before = split(shape, dim)
  for _, t in ipairs(list) do sum = sum + t.shape[dim] end
  shape[dim] = sum
  for b = 0, before - 1 do
    for _, t in ipairs(list) do
      local _, n, after = split(t.shape, dim)
      for i = 1, n * after do values[#values + 1] = t[b * n * after + i] end
    end
  end
  return { array.new(shape, function(i) return values[i] end, list[1].dtype) }
end

--- x (B, L, 3 H d) -> q, k, v (B, H, L, d).
function oracle.split_heads(x, o)
  local B, L, H = x.x.shape[1], x.x.shape[2], o.heads
  local d, outputs = x.x.shape[3] // (3 * H), {}
  for part = 0, 2 do
    outputs[part + 1] = array.new({ B, H, L, d }, function(i)
      local row, c = (i - 1) // d, (i - 1) % d
      local b, h, l = row // (H * L), row // L % H, row % L
      return x.x[((b * L + l) * 3 + part) * H * d + h * d + c + 1]
    end)
  end
  return outputs
end

-- ---- tokens and losses -----------------------------------------------------------------

function oracle.embedding(x)
  local D, shape = x.table.shape[2], { table.unpack(x.ids.shape) }
  shape[#shape + 1] = D
  return { array.new(shape, function(i)
    return x.table[x.ids[(i - 1) // D + 1] * D + (i - 1) % D + 1]
  end) }
end

--- The finaliser of SplitMix64, and an unsigned remainder.
local function mixed(x)
  x = (x ~ x >> 30) * 0xbf58476d1ce4e5b9
  x = (x ~ x >> 27) * 0x94d049bb133111eb
  return x ~ x >> 31
end

local function remainder(x, n)
  return x >= 0 and x % n or ((x >> 1) % n * 2 + (x & 1)) % n
end

function oracle.ngrams(x, o)
  local B, L = table.unpack(x.ids.shape)
  local shortest, longest, buckets = o.shortest or 2, o.longest or 4, o.buckets or 65536
  local orders, kept = longest - shortest + 1, longest - 1
  local function token(b, t, from)
    if t < 1 then
      return x.before and not x.documents and t > -kept and x.before[b * kept + kept + t] or -1
    end
    if x.documents and x.documents[b * L + t] ~= x.documents[b * L + from] then return -1 end
    return x.mask and x.mask[b * L + t] == 0 and "hidden" or x.ids[b * L + t]
  end
  return { array.new({ B, L, orders }, function(i)
    local b, t, order = (i - 1) // (L * orders), (i - 1) // orders % L + 1, (i - 1) % orders
    local hash, last = 0, -1 -- how far back the last one that is there was
    for back = 0, shortest + order - 1 do
      local id = token(b, t - back, t)
      if id ~= "hidden" then
        if id < 0 then break end
        hash = mixed(hash + id + (back - last - 1 << 32) + 0x9e3779b97f4a7c15)
        last = back
      end
    end
    return order * buckets + remainder(hash, buckets)
  end, "i32") }
end

function oracle.cross_entropy(x, o)
  local V, losses, counted = x.logits.shape[#x.logits.shape], array.new(x.ids.shape), 0
  for i = 1, #x.ids do
    local row = {}
    for c = 1, V do row[c] = x.logits[(i - 1) * V + c] end
    if x.ids[i] >= 0 then
      counted = counted + 1
      losses[i] = logsumexp(row) - row[x.ids[i] + 1]
    end
  end
  if o.reduction == "none" then return { losses } end
  local sum = sum_of(losses)
  if o.reduction ~= "sum" then sum = counted > 0 and sum / counted or 0 end
  return { array.new({}, function() return sum end) }
end

--- The place of each counted row's largest logit, from 0; -1 where none is counted.
local function best_of(logits, ids)
  local V = logits.shape[#logits.shape]
  return array.new(ids.shape, function(i)
    local best = 1
    for c = 2, V do
      if logits[(i - 1) * V + c] > logits[(i - 1) * V + best] then best = c end
    end
    return ids[i] >= 0 and best - 1 or -1
  end, "i32")
end

function oracle.linear_cross_entropy(x, o)
  local logits = oracle.linear({ x = x.x, weight = x.weight, bias = x.bias }, {})[1]
  local results = oracle.cross_entropy({ logits = logits, ids = x.ids }, o)
  if o.best then results[2] = best_of(logits, x.ids) end
  return results
end

function oracle.mean_square(x)
  local sum = 0.0
  for i = 1, #x.a do sum = sum + (x.a[i] - x.b[i]) ^ 2 / #x.a end
  return { array.new({}, function() return sum end) }
end

-- ---- the rest --------------------------------------------------------------------------

local tools = { reduction = reduction, each_line = each_line, dim_of = dim_of }
for name, op in pairs(require "spec.support.arithmetic_oracle"(tools)) do oracle[name] = op end
for name, op in pairs(require "spec.support.index_oracle") do oracle[name] = op end
for name, op in pairs(require "spec.support.oracle_parts") do oracle[name] = op end
for name, op in pairs(require("spec.support.graphs").oracle) do oracle[name] = op end
for name, op in pairs(require("spec.support.listed").oracle) do oracle[name] = op end
for name, op in pairs(require("spec.support.patterns").oracle) do oracle[name] = op end

for name, act in pairs { swiglu = "silu", geglu = "gelu", geglu_tanh = "gelu_tanh", reglu = "relu",
                         glu = "sigmoid" } do
  oracle[name] = function(x)
    return oracle.mul { a = oracle[act]({ x = x.gate })[1], b = x.value }
  end
end

return oracle
