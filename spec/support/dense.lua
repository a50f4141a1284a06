-- dense.lua - softmax attention over a matrix of counts, in double precision and from nothing but
-- its definition, with gradients: the judge of every pattern.
--
--     out_i = sum_j p_ij v_j     p_ij = c_ij exp(s_ij) / sum_j c_ij exp(s_ij)
--     s_ij = scale q_i.k_j - b_ij
--
-- c_ij is how often query i sees key j, b_ij what its score loses. A row without keys is 0.
local array = require "spec.support.array"

local dense = {}

local function dot(x, at, y, from, n)
  local sum = 0
  for c = 1, n do sum = sum + x[at + c] * y[from + c] end
  return sum
end

local function add(x, at, factor, y, from, n)
  for c = 1, n do x[at + c] = x[at + c] + factor * y[from + c] end
end

--- Keys that row i sees, and their weights.
local function weights_of(o, row, i, qat, kat, loses)
  local d, keys, weight, top, sum = o.q.shape[4], {}, {}, -math.huge, 0
  for j, count in ipairs(row) do
    if count > 0 then
      keys[#keys + 1] = j
      local score = o.scale * dot(o.q, qat, o.k, kat + (j - 1) * d, d)
      if loses then score = score - loses(i, j) end
      weight[#keys] = score
      top = math.max(top, score)
    end
  end
  for n, j in ipairs(keys) do
    weight[n] = row[j] * math.exp(weight[n] - top)
    sum = sum + weight[n]
  end
  for n = 1, #keys do weight[n] = weight[n] / sum end
  return keys, weight
end

--- o: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), g (B, H, Lq, dv), arrays, g being
--- dLoss/dout; counts(b, h): rows of counts; loses(b, hk, i, j) or nil. Returns out, dq, dk, dv.
function dense.attention(o)
  local B, H, Lq, d = table.unpack(o.q.shape)
  local Hk, Lk, dv = o.k.shape[2], o.k.shape[3], o.v.shape[4]
  o.scale = o.scale or 1 / math.sqrt(d)
  local out = array.new({ B, H, Lq, dv })
  local dq, dk, dvalue = array.new(o.q.shape), array.new(o.k.shape), array.new(o.v.shape)
  for n = 0, B * H - 1 do
    local b, h = n // H, n % H
    local hk = h // (H // Hk)
    local kat, vat = (b * Hk + hk) * Lk * d, (b * Hk + hk) * Lk * dv
    local function loses(i, j) return o.loses(b, hk, i, j) end
    for i, row in ipairs(o.counts(b, h)) do
      local qat, oat = (n * Lq + i - 1) * d, (n * Lq + i - 1) * dv
      local keys, p = weights_of(o, row, i, qat, kat, o.loses and loses)
      for s, j in ipairs(keys) do add(out, oat, p[s], o.v, vat + (j - 1) * dv, dv) end
      local delta = dot(o.g, oat, out, oat, dv)
      for s, j in ipairs(keys) do
        local kj, vj = kat + (j - 1) * d, vat + (j - 1) * dv
        local ds = o.scale * p[s] * (dot(o.g, oat, o.v, vj, dv) - delta)
        add(dvalue, vj, p[s], o.g, oat, dv)
        add(dq, qat, ds, o.k, kj, d)
        add(dk, kj, ds, o.q, qat, d)
      end
    end
  end
  return out, dq, dk, dvalue
end

return dense
