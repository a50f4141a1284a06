-- philox.lua - random numbers by counter once more (Salmon et al. 2011, Philox 4x32-10), in plain
-- Lua: what a rule that draws is held against.
local philox = {}

local M0, M1, W0, W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
local LOW = 0xFFFFFFFF

--- Four words of a counter of four and a key of two.
function philox.block(counter, key)
  local c0, c1, c2, c3 = table.unpack(counter)
  local k0, k1 = key[1], key[2]
  for _ = 1, 10 do
    local p0, p1 = M0 * c0, M1 * c2 -- as unsigned: Lua wraps, shifts are logical
    c0, c1, c2, c3 = (p1 >> 32) ~ c1 ~ k0, p1 & LOW, (p0 >> 32) ~ c3 ~ k1, p0 & LOW
    k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
  end
  return { c0, c1, c2, c3 }
end

--- The stream of (seed, purpose, a, b), as the engine keys them.
function philox.stream(seed, purpose, a, b)
  local key = philox.block({ seed & LOW, seed >> 32, purpose, 0 }, { 0x50455246, 0x4F524D52 })
  local out = philox.block({ a & LOW, a >> 32, b & LOW, b >> 32 }, key)
  return { key = { out[1], out[2] }, base = { out[3], out[4] } }
end

--- The index-th of a stream of numbers in 0 .. n - 1, n below 2^32.
function philox.below(stream, index, n)
  local half = index // 2
  local words = philox.block({ half & LOW, half >> 32, stream.base[1], stream.base[2] },
    stream.key)
  local x0, x1 = words[2 * (index % 2) + 1], words[2 * (index % 2) + 2]
  local middle = x1 * n + (x0 * n >> 32)
  return middle >> 32
end

return philox
