-- performer/clusters.lua: balanced routing, the published form of the Routing Transformer (Roy et
-- al. 2020, arXiv 2003.05997), composed of ops. Adds itself to pf.attention.
--
-- Each centroid takes the `window` tokens nearest to it by direction, of the whole sequence;
-- attention is inside each cluster. A token in several has the mean of what they give it, in none
-- 0. That choice knows the whole sequence, so it is for full attention; attention.routing is the
-- causal one.
local core = require "performer.core"
local util = require "performer.util"
local kernels = require "performer.kernel"

local op, attention = core.op, kernels.attention
local NEVER = -1e30 -- a score that weighs nothing
local SELF = -5e4   -- of a token with itself, where keys are queries: counts if nothing else does

--- The rows (from 0, of B H L) that each centroid takes of x, best first: a list of B H C lists.
local function best_rows(x, centroids, window, keep)
  local B, H, L = x:size(1), x:size(2), x:size(3)
  x = x:detach()
  x = x / x:square():sum(-1):sqrt():reshape(B, H, L, 1)
  local scores = x:matmul(centroids:detach():transpose(2, 3)):totable()
  local lists = {}
  for b = 1, B do
    for h = 1, H do
      for c = 1, centroids:size(2) do
        local order, score = {}, {}
        for l = 1, L do
          local s = scores[b][h][l][c]
          score[l] = s == s and s or -math.huge
          if not keep or keep[b][l] ~= 0 then order[#order + 1] = l end
        end
        table.sort(order, function(i, j)
          if score[i] ~= score[j] then return score[i] > score[j] end
          return i < j
        end)
        local rows = {}
        for n = 1, math.min(window, #order) do
          rows[n] = ((b - 1) * H + h - 1) * L + order[n] - 1
        end
        lists[#lists + 1] = rows
      end
    end
  end
  return lists
end

--- ids (clusters, window) of those rows and 1 or 0 for each: `none` stands where a list ends.
local function as_tensors(lists, window, none)
  local ids, there = {}, {}
  for n, rows in ipairs(lists) do
    ids[n], there[n] = {}, {}
    for s = 1, window do ids[n][s], there[n][s] = rows[s] or none, rows[s] and 1 or 0 end
  end
  return core.tensor(ids, { dtype = "i32" }), core.tensor(there)
end

--- Rows of x (B, H, L, d) by ids; the one behind the last is zeros.
local function gather(x, ids)
  local n, d = x:size(1) * x:size(2) * x:size(3), x:size(4)
  return op.embedding(op.concat({ x:reshape(n, d), core.zeros(1, d) }, 1), ids)
end

--- Where each of n rows stands among the clusters' places, padded with the place behind the last,
--- and 1 over how many places it has.
local function places_of(lists, window, n)
  local places, share, most = {}, {}, 1
  for row = 1, n do places[row] = {} end
  for c, rows in ipairs(lists) do
    for s, row in ipairs(rows) do
      local own = places[row + 1]
      own[#own + 1] = (c - 1) * window + s - 1
      most = math.max(most, #own)
    end
  end
  for row = 1, n do
    share[row] = { #places[row] > 0 and 1 / #places[row] or 0 }
    for s = #places[row] + 1, most do places[row][s] = #lists * window end
  end
  return core.tensor(places, { dtype = "i32" }), core.tensor(share)
end

--- softmax(scale q k^T) v inside each cluster, (clusters, window, dv); there: 1 where a place of
--- the keys is taken. tied: queries and keys are the same tokens.
local function attend(q, k, v, there, scale, tied)
  local window = k:size(2)
  local scores = q:matmul(k:transpose(2, 3)) * scale
  if tied then
    local own = {}
    for i = 1, window do
      own[i] = {}
      for j = 1, window do own[i][j] = i == j and 1 or 0 end
    end
    own = core.tensor(own)
    scores = scores * (1 - own) + own * SELF
  end
  there = there:reshape(there:size(1), 1, window)
  scores = scores * there + (1 - there) * NEVER
  return scores:softmax(3):matmul(v)
end

local function check(q, k, v, options, where)
  if options.causal then
    util.fail("%s: a cluster takes the best tokens of the whole sequence, so it is never causal; "
      .. "attention.routing is", where)
  end
  for name, t in util.sorted { q = q, k = k, v = v, centroids = options.centroids } do
    local rank = name == "centroids" and 3 or 4
    if core.kind(t) ~= "tensor" or t:rank() ~= rank then
      util.fail("%s: %s must be a tensor %s, got %s", where, name,
        rank == 3 and "(H, clusters, d)" or "(B, H, L, d)",
        core.kind(t) == "tensor" and tostring(t:shape()) or core.kind(t))
    end
  end
  if not (q and k and v and options.centroids) then
    util.fail("%s: q, k, v and centroids are needed", where)
  end
end

--- q, k, v (B, H, L, d) -> (B, H, L, dv), differentiable. centroids (H, clusters, d). window:
--- tokens that a cluster takes (L / clusters, rounded up); tied: keys are those tokens too, and a
--- token sees itself only where it sees nothing else (true), or they are chosen by k; scale (1
--- tied, else 1 / sqrt(d)); mask (B, L), 1 keep.
function attention.balanced_routing(q, k, v, options)
  local where = "attention.balanced_routing"
  options = util.check_options(options,
    { "centroids", "window", "tied", "scale", "mask", "causal" }, where)
  check(q, k, v, options, where)
  local B, H, L, d = table.unpack(q:shape())
  local centroids, tied = options.centroids, options.tied ~= false
  local window = options.window or math.ceil(L / math.max(1, centroids:size(2)))
  if options.window ~= nil and (math.type(window) ~= "integer" or window < 1) then
    util.fail("%s: window must be a whole number from 1, got %s", where, tostring(window))
  end
  if options.window ~= nil and window > L then
    util.fail("%s: window = %d, so many tokens a cluster takes, but there are %d", where, window, L)
  end
  local keep = options.mask and options.mask:totable()
  local none, scale = B * H * L, options.scale or (tied and 1 or d ^ -0.5)
  local q_rows = best_rows(q, centroids, window, keep)
  local k_rows = tied and q_rows or best_rows(k, centroids, window, keep)
  local q_ids = as_tensors(q_rows, window, none)
  local k_ids, there = as_tensors(k_rows, window, none)
  local out = attend(gather(q, q_ids), gather(k, k_ids), gather(v, k_ids), there, scale, tied)
  local places, share = places_of(q_rows, window, none)
  local dv = v:size(4)
  out = op.concat({ out:reshape(#q_rows * window, dv), core.zeros(1, dv) }, 1)
  return (op.embedding(out, places):sum(2) * share):reshape(B, H, L, dv)
end
