-- index_oracle.lua - formulas (see oracle.lua) of the ops that pick, order and repeat elements.
local array = require "spec.support.array"

local oracle = {}

--- Coordinates (from 1) of element i (from 1) of a shape; and the element at coordinates.
local function coordinates(i, shape)
  local at, rest = {}, i - 1
  for d = #shape, 1, -1 do
    at[d] = rest % shape[d] + 1
    rest = rest // shape[d]
  end
  return at
end

local function element(at, shape)
  local i = 0
  for d = 1, #shape do i = i * shape[d] + at[d] - 1 end
  return i + 1
end

local function from_end(i, n) return i < 0 and i + n + 1 or i end

local function with(list, d, value)
  local new = { table.unpack(list) }
  new[d] = value
  return new
end

--- y of `shape` whose element at each place is x's at f(place).
local function moved(x, shape, f)
  return array.new(shape, function(i) return x[element(f(coordinates(i, shape)), x.shape)] end,
    x.dtype)
end

-- ---- order -----------------------------------------------------------------------------

--- Is a before b among numbers, a NaN after all?
local function less(a, b)
  if a ~= a then return false end
  return b ~= b or a < b
end

--- How many elements of a line stand before its j-th one.
local function before(line, j, largest)
  local count, mine = 0, line[j]
  for l, other in ipairs(line) do
    local first, second = other, mine
    if largest then first, second = mine, other end
    if less(first, second) or l < j and not less(second, first) then count = count + 1 end
  end
  return count
end

--- Values and positions of the first k along dim, larger or smaller ones first.
local function ordered(x, dim, k, largest)
  local d = from_end(dim or -1, #x.shape)
  local shape = with(x.shape, d, k or x.shape[d])
  local values = array.new(shape, function() return 0 end, x.dtype)
  local places = array.new(shape, function() return 0 end, "i32")
  for i = 1, #x do
    local at, line = coordinates(i, x.shape), {}
    for j = 1, at[d] == 1 and x.shape[d] or 0 do line[j] = x[element(with(at, d, j), x.shape)] end
    for j = 1, #line do
      local number = before(line, j, largest) + 1
      local to = element(with(at, d, number), shape)
      if number <= shape[d] then values[to], places[to] = line[j], j end
    end
  end
  return { values, places }
end

function oracle.sort(x, o) return ordered(x.x, o.dim, nil, o.descending) end

function oracle.argsort(x, o) return { ordered(x.x, o.dim, nil, o.descending)[2] } end

function oracle.topk(x, o) return ordered(x.x, o.dim, o.k, o.largest ~= false) end

-- ---- by position -----------------------------------------------------------------------

function oracle.gather(x, o)
  local d = from_end(o.dim, #x.x.shape)
  return { moved(x.x, x.index.shape, function(at)
    return with(at, d, from_end(x.index[element(at, x.index.shape)], x.x.shape[d]))
  end) }
end

function oracle.index_select(x, o)
  local d = from_end(o.dim, #x.x.shape)
  return { moved(x.x, with(x.x.shape, d, #x.index), function(at)
    return with(at, d, from_end(x.index[at[d]], x.x.shape[d]))
  end) }
end

function oracle.scatter_add(x, o)
  local d = from_end(o.dim, #x.x.shape)
  local y = array.new(x.x.shape, function(i) return x.x[i] end, x.x.dtype)
  for i = 1, #x.source do
    local at = coordinates(i, x.source.shape)
    local index = #x.index.shape == 1 and x.index[at[d]] or x.index[i]
    local to = element(with(at, d, from_end(index, x.x.shape[d])), x.x.shape)
    y[to] = y[to] + x.source[i]
    if y.dtype == "i32" then y[to] = (y[to] + 2147483648) % 4294967296 - 2147483648 end
  end
  return { y }
end

function oracle.masked_select(x)
  local width, values, kept = 1, {}, 0
  local shape = { 0, table.unpack(x.x.shape, #x.mask.shape + 1) }
  for d = 2, #shape do width = width * shape[d] end
  for row = 1, #x.mask do
    kept = kept + x.mask[row]
    for a = 1, x.mask[row] * width do values[#values + 1] = x.x[(row - 1) * width + a] end
  end
  return { array.new(with(shape, 1, kept), function(i) return values[i] end, x.x.dtype) }
end

function oracle.flip(x, o)
  local d = from_end(o.dim, #x.x.shape)
  return { moved(x.x, x.x.shape, function(at) return with(at, d, x.x.shape[d] + 1 - at[d]) end) }
end

-- ---- dimensions ------------------------------------------------------------------------

--- The same elements under another shape.
local function seen_as(x, shape)
  return { array.new(shape, function(i) return x[i] end, x.dtype) }
end

function oracle.unsqueeze(x, o)
  local shape = { table.unpack(x.x.shape) }
  table.insert(shape, from_end(o.dim, #shape + 1), 1)
  return seen_as(x.x, shape)
end

function oracle.squeeze(x, o)
  local goes, shape = {}, {}
  for _, d in ipairs(o.dims or {}) do goes[from_end(d, #x.x.shape)] = true end
  for d, n in ipairs(x.x.shape) do
    if o.dims and not goes[d] or not o.dims and n ~= 1 then shape[#shape + 1] = n end
  end
  return seen_as(x.x, shape)
end

--- The last of the coordinates, as many as x has dimensions, each within x.
local function within(x, at)
  local own, more = {}, #at - #x.shape
  for d = 1, #x.shape do own[d] = (at[d + more] - 1) % x.shape[d] + 1 end
  return own
end

function oracle.expand(x, o)
  local shape, more = {}, #o.shape - #x.x.shape
  for d, n in ipairs(o.shape) do shape[d] = n == -1 and x.x.shape[d - more] or n end
  return { moved(x.x, shape, function(at) return within(x.x, at) end) }
end

function oracle.tile(x, o)
  local rank, shape = math.max(#o.counts, #x.x.shape), {}
  for d = 1, rank do
    shape[d] = (o.counts[d - rank + #o.counts] or 1) * (x.x.shape[d - rank + #x.x.shape] or 1)
  end
  return { moved(x.x, shape, function(at) return within(x.x, at) end) }
end

function oracle.stack(x, o)
  local shape = { table.unpack(x.tensors[1].shape) }
  local d = from_end(o.dim or 1, #shape + 1)
  table.insert(shape, d, #x.tensors)
  return { array.new(shape, function(i)
    local at = coordinates(i, shape)
    local from = x.tensors[table.remove(at, d)]
    return from[element(at, from.shape)]
  end, x.tensors[1].dtype) }
end

-- ---- triangles, one hot ------------------------------------------------------------------

local function triangle(x, kept)
  local rank = #x.shape
  return { array.new(x.shape, function(i)
    local at = coordinates(i, x.shape)
    return kept(at[rank] - at[rank - 1]) and x[i] or 0
  end, x.dtype) }
end

function oracle.tril(x, o)
  return triangle(x.x, function(above) return above <= (o.diagonal or 0) end)
end

function oracle.triu(x, o)
  return triangle(x.x, function(above) return above >= (o.diagonal or 0) end)
end

function oracle.one_hot(x, o)
  local shape = { table.unpack(x.ids.shape) }
  shape[#shape + 1] = o.n
  return { array.new(shape, function(i)
    return x.ids[(i - 1) // o.n + 1] == (i - 1) % o.n and 1 or 0
  end) }
end

return oracle
