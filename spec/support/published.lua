-- published.lua - the published forms of LSH attention and of routing, in double precision and with
-- what is wrong with them, only to compare: they let the future choose what the past sees.
-- `require "spec.support.published"`.
--
-- All take one head of one item as plain lists: rows {{...}, ...}.
local published = {}

local function dot(a, b)
  local sum = 0
  for c = 1, #a do sum = sum + a[c] * b[c] end
  return sum
end

--- x at length 1.
function published.unit(x)
  local size, y = math.sqrt(dot(x, x)), {}
  for c = 1, #x do y[c] = size > 0 and x[c] / size or 0 end
  return y
end

--- sum_j softmax(scores)_j v_j over the keys of scores {[j] = score}.
local function mix(scores, v)
  local top, sum, out = -math.huge, 0, {}
  for _, s in pairs(scores) do top = math.max(top, s) end
  for c = 1, #v[1] do out[c] = 0 end
  for j, s in pairs(scores) do
    local w = math.exp(s - top)
    sum = sum + w
    for c = 1, #out do out[c] = out[c] + w * v[j][c] end
  end
  for c = 1, #out do out[c] = out[c] / sum end
  return out
end

local SELF = -5e4 -- the score of a token with itself

--- LSH attention in chunks, one round (Reformer; reformer-pytorch): positions sorted by (bucket,
--- position) are cut in chunks of `size`, and each looks at its own chunk and at the one before,
--- the first one at the last. o: qk, v, buckets (list from 0), size, causal, scale.
function published.chunks(o)
  local L, order, out = #o.qk, {}, {}
  for i = 1, L do order[i] = i end
  table.sort(order, function(i, j)
    if o.buckets[i] ~= o.buckets[j] then return o.buckets[i] < o.buckets[j] end
    return i < j
  end)
  local n = L // o.size
  for place, i in ipairs(order) do
    local chunk, scores = (place - 1) // o.size, {}
    for _, c in ipairs { chunk, (chunk - 1) % n } do
      for r = c * o.size + 1, (c + 1) * o.size do
        local j = order[r]
        if j == i then
          scores[j] = SELF
        elseif not o.causal or j <= i then
          scores[j] = o.scale * dot(o.qk[i], published.unit(o.qk[j]))
        end
      end
    end
    out[i] = mix(scores, o.v)
  end
  return out
end

--- Balanced routing (Routing Transformer; routing-transformer), keys being queries: each centroid
--- takes the `window` tokens nearest to it by direction. o: q, k, v, centroids, window, causal,
--- scale; causal: by position inside a cluster. Returns out, and how many clusters hold each token.
function published.balanced(o)
  local L, out, count = #o.q, {}, {}
  for i = 1, L do
    out[i], count[i] = {}, 0
    for c = 1, #o.v[1] do out[i][c] = 0 end
  end
  for _, mu in ipairs(o.centroids) do
    local order, near = {}, {}
    for i = 1, L do order[i], near[i] = i, dot(published.unit(o.q[i]), mu) end
    table.sort(order, function(i, j)
      if near[i] ~= near[j] then return near[i] > near[j] end
      return i < j
    end)
    for a = 1, o.window do
      local i, scores = order[a], {}
      for b = 1, o.window do
        local j = order[b]
        if j == i then
          scores[j] = SELF
        elseif not o.causal or j <= i then
          scores[j] = o.scale * dot(o.q[i], o.k[j])
        end
      end
      local given = mix(scores, o.v)
      count[i] = count[i] + 1
      for c = 1, #given do out[i][c] = out[i][c] + given[c] end
    end
  end
  for i = 1, L do
    for c = 1, #out[i] do out[i][c] = count[i] > 0 and out[i][c] / count[i] or 0 end
  end
  return out, count
end

return published
