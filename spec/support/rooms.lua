-- rooms.lua - who looks at whom by hashes and clusters, written from the papers: how often the
-- softmax of each query has each key. Reformer, arXiv 2001.04451, section 2; Routing Transformer,
-- arXiv 2003.05997. `require "spec.support.rooms"`.
--
-- A call is { q, k, v and what reach takes, as attention.forward has it; numbers (B, H, rounds, L),
-- ~b of a masked key; window, pairs, causal, kind = "lsh" or "routing" }.
local array = require "spec.support.array"
local attention = require "spec.support.attention"

local rooms = {}

--- The keys j that query i looks at in its room: the last `window`, or so many to each side.
local function looked_at(o, i, see, query, key)
  local own = i + o.k.shape[3] - o.q.shape[3]
  local room, found, before, after = query(own), {}, {}, {}
  for j = 1, o.k.shape[3] do
    if see(i, j) and key(j) == room then
      local side = (o.causal or j < own) and before or after
      if not o.causal and j == own then side = found end
      side[#side + 1] = j
    end
  end
  for n = math.max(1, #before - o.window + 1), #before do found[#found + 1] = before[n] end
  for n = 1, math.min(o.window, #after) do found[#found + 1] = after[n] end
  return found
end

--- {[j] = how often} for query i (from 1) of item b and head h (from 0).
function rooms.counts(o, b, h, i)
  local H, R, L = o.numbers.shape[2], o.numbers.shape[3], o.numbers.shape[4]
  local see, counts, others = attention.visible(o, b), {}, 0
  local function row(t)
    return function(j)
      local n = o.numbers[((b * H + h) * R + t) * L + j]
      return n < 0 and ~n or n
    end
  end
  local apart = o.kind == "routing" and R == 2
  for t = 0, apart and 0 or R - 1 do
    for _, j in ipairs(looked_at(o, i, see, row(apart and 1 or t), row(t))) do
      counts[j] = o.pairs == "count" and (counts[j] or 0) + 1 or 1
    end
  end
  local own = i + o.k.shape[3] - o.q.shape[3]
  for j in pairs(counts) do if j ~= own then others = others + 1 end end
  if not apart and others > 0 then counts[own] = nil end
  if not apart and others == 0 and see(i, own) then counts = { [own] = 1 } end
  return counts
end

--- out (B, H, Lq, dv) of softmax attention over those, in double.
function rooms.forward(o)
  local B, H, Lq, d = table.unpack(o.q.shape)
  local Lk, dv, scale = o.k.shape[3], o.v.shape[4], o.scale or 1
  local out = array.new { B, H, Lq, dv }
  for n = 0, B * H - 1 do
    for i = 1, Lq do
      local weight, top, sum = {}, -math.huge, 0
      local counts = rooms.counts(o, n // H, n % H, i)
      for j in pairs(counts) do
        local s = 0
        for c = 1, d do s = s + o.q[(n * Lq + i - 1) * d + c] * o.k[(n * Lk + j - 1) * d + c] end
        weight[j], top = scale * s, math.max(top, scale * s)
      end
      for j, count in pairs(counts) do
        weight[j] = count * math.exp(weight[j] - top)
        sum = sum + weight[j]
      end
      for j, w in pairs(weight) do
        for c = 1, dv do
          local at = (n * Lq + i - 1) * dv + c
          out[at] = out[at] + w / sum * o.v[(n * Lk + j - 1) * dv + c]
        end
      end
    end
  end
  return out
end

return rooms
