-- array.lua - numbers in double precision for the judges: flat row-major lists with a shape
-- and a dtype, made from seeds, turned into tensors of several memory layouts and back, and
-- compared. Values that stand for f32 are rounded to f32 first, so that the engine and the
-- judge see the same inputs.
local pf = require "performer"

local array = {}

--- The f32 nearest to x, as a double.
local function round(x)
  return (string.unpack("f", string.pack("f", x)))
end
array.round = round

function array.numel(shape)
  local n = 1
  for i = 1, #shape do n = n * shape[i] end
  return n
end

--- Row-major strides, in elements.
function array.strides(shape)
  local strides, step = {}, 1
  for i = #shape, 1, -1 do
    strides[i], step = step, step * shape[i]
  end
  return strides
end

--- An array of `shape`; f(i) gives element i (from 1) as it is, without rounding.
function array.new(shape, f, dtype)
  local a = { shape = { table.unpack(shape) }, dtype = dtype or "f32" }
  for i = 1, array.numel(shape) do a[i] = f and f(i) or 0 end
  return a
end

--- An f32 array: f(i) rounded.
function array.fill(shape, f)
  return array.new(shape, function(i) return round(f(i)) end)
end

function array.copy(a)
  return array.new(a.shape, function(i) return a[i] end, a.dtype)
end

-- ---- random numbers of our own, so that specs don't depend on math.random ----------------

local Random = {}
Random.__index = Random

function array.random(seed)
  return setmetatable({ state = seed * 2654435761 + 88172645463325252 }, Random)
end

--- Uniform in (0, 1).
function Random:uniform()
  local x = self.state
  x = x ~ (x << 13)
  x = x ~ (x >> 7)
  x = x ~ (x << 17)
  self.state = x
  return ((x * 2685821657736338717 >> 12) + 0.5) / 2 ^ 52
end

function Random:normal()
  return math.sqrt(-2 * math.log(self:uniform())) * math.cos(2 * math.pi * self:uniform())
end

--- A whole number from 0 to n - 1.
function Random:below(n) return math.floor(self:uniform() * n) end

--- f32 arrays: normal times scale; uniform between low and high.
function Random:normals(shape, scale)
  return array.fill(shape, function() return (scale or 1) * self:normal() end)
end

function Random:uniforms(shape, low, high)
  return array.fill(shape, function() return low + (high - low) * self:uniform() end)
end

--- Normal, at least `gap` away from 0: for functions with a kink there.
function Random:away(shape, gap)
  return array.fill(shape, function()
    local x = self:normal()
    return x + (x < 0 and -gap or gap)
  end)
end

--- i32: whole numbers from low to high.
function Random:whole(shape, low, high)
  return array.new(shape, function() return low + self:below(high - low + 1) end, "i32")
end

-- ---- tensors ---------------------------------------------------------------------------

local function plain(a)
  if #a == 0 then return pf.zeros(a.shape, { dtype = a.dtype }) end
  local options = { dtype = a.dtype }
  if #a.shape == 0 then return pf.tensor(a[1], options) end
  local flat = {}
  for i = 1, #a do flat[i] = a[i] end
  return pf.tensor(flat, options):reshape(a.shape)
end

--- Position (from 0) of element i of `shape` as coordinates.
local function coordinates(i, shape, strides)
  local at = {}
  for d = 1, #shape do
    at[d] = i // strides[d]
    i = i % strides[d]
  end
  return at
end

--- The same numbers, stored with the dimensions the other way round.
local function transposed(a)
  local rank = #a.shape
  local shape, order = {}, {}
  for d = 1, rank do shape[d], order[d] = a.shape[rank + 1 - d], rank + 1 - d end
  local own, strides = array.strides(a.shape), array.strides(shape)
  local stored = array.new(shape, function(i)
    local at, from = coordinates(i - 1, shape, strides), 0
    for d = 1, rank do from = from + at[d] * own[rank + 1 - d] end
    return a[from + 1]
  end, a.dtype)
  return plain(stored):permute(order)
end

--- The same numbers as a part of a wider tensor, with NaN (i32: a number no op may read)
-- before and after each row.
local function sliced(a)
  local rank = #a.shape
  local width, alien = a.shape[rank], a.dtype == "f32" and 0 / 0 or 1 << 30
  local shape = { table.unpack(a.shape) }
  shape[rank] = width + 3
  local stored = array.new(shape, function(i)
    local row, column = (i - 1) // (width + 3), (i - 1) % (width + 3) - 2
    return column >= 0 and column < width and a[row * width + column + 1] or alien
  end, a.dtype)
  return plain(stored):slice(rank, 3, width + 2)
end

--- A tensor with the array's numbers in a layout: "plain", "transposed" or "sliced".
function array.tensor(a, layout)
  if layout == "transposed" and #a.shape > 1 and #a > 0 then return transposed(a) end
  if layout == "sliced" and #a.shape > 0 and #a > 0 then return sliced(a) end
  return plain(a)
end

--- The numbers of a tensor, whatever its strides.
function array.of(t)
  local bytes, format = t:tobytes(), t:dtype() == "f32" and "<f" or "<i4"
  local a = { shape = { table.unpack(t:shape()) }, dtype = t:dtype() }
  for i = 1, #bytes // 4 do a[i] = string.unpack(format, bytes, 4 * i - 3) end
  return a
end

-- ---- closeness -------------------------------------------------------------------------

function array.shape_text(a) return "[" .. table.concat(a.shape, ", ") .. "]" end

local function is_finite(x) return x == x and x ~= math.huge and x ~= -math.huge end
array.is_finite = is_finite

function array.all_finite(a)
  for i = 1, #a do
    if not is_finite(a[i]) then return false end
  end
  return true
end

--- The largest finite |x|.
function array.largest(a)
  local largest = 0
  for i = 1, #a do
    if is_finite(a[i]) then largest = math.max(largest, math.abs(a[i])) end
  end
  return largest
end

--- nil when |got - want| <= relative |want| + absolute everywhere, else what differs. NaN
-- wants NaN, an infinity the same infinity; want is rounded to f32 where that overflows.
function array.differs(got, want, relative, absolute)
  if array.shape_text(got) ~= array.shape_text(want) then
    return ("shape %s, wanted %s"):format(array.shape_text(got), array.shape_text(want))
  end
  if got.dtype ~= want.dtype then
    return ("dtype %s, wanted %s"):format(got.dtype, want.dtype)
  end
  for i = 1, #want do
    local a, b = got[i], want[i]
    if math.abs(b) > 3.5e38 then b = b > 0 and math.huge or -math.huge end
    local same = a == b or a ~= a and b ~= b
    local near = math.abs(a - b) <= relative * math.abs(b) + absolute -- false for NaN
    if not same and not near then
      return ("element %d of %s is %.9g, wanted %.9g (off by %.3g)"):format(i,
        array.shape_text(want), a, b, math.abs(a - b))
    end
  end
end

--- max|a - b| / max|b| of the worst run of `size` elements (a head, a batch item).
function array.distance(a, b, size)
  size = size or #b
  local worst = 0
  for first = 1, #b, math.max(size, 1) do
    local far, top = 0, 1e-300
    for i = first, first + size - 1 do
      local gap = math.abs(a[i] - b[i])
      far = (gap > far or gap ~= gap) and gap or far
      top = math.max(top, math.abs(b[i]))
    end
    if far / top > worst or far ~= far then worst = far / top end
  end
  return worst
end

--- Equal strings are equal bits.
function array.hex(t)
  return (t:tobytes():gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

return array
