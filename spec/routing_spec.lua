-- routing_spec.lua - attention inside clusters: the published, balanced form against its definition
-- and our own, whose choice depends on the past alone; centroids that training moves.
local pf = require "performer"
local array = require "spec.support.array"
local published = require "spec.support.published"
require "spec.support"

local function normals(seed, ...) return array.tensor(array.random(seed):normals { ... }) end

--- Rows at length 1.
local function unit(x)
  return x / x:square():sum(-1):sqrt():reshape(x:size(1), x:size(2), x:size(3), 1)
end

describe("balanced routing", function()
  local B, H, L, d, C = 2, 2, 37, 4, 5
  local function rows(seed)
    local q = normals(seed, B, H, L, d)
    return q, unit(q), normals(seed + 1, B, H, L, 3), normals(seed + 2, H, C, d)
  end

  it("is the published definition", function()
    for seed, window in pairs { [1] = 1, [11] = 6, [21] = 20, [31] = L } do
      local q, k, v, centroids = rows(seed)
      local out = pf.attention.balanced_routing(q, k, v, { centroids = centroids, window = window })
      local left = 0
      for b = 1, B do
        for h = 1, H do
          local want, count = published.balanced {
            q = q[b][h]:totable(), k = k[b][h]:totable(), v = v[b][h]:totable(),
            centroids = centroids[h]:totable(), window = window, scale = 1,
          }
          assert.near_tensor(pf.tensor(want), out[b][h], 2e-6)
          for i = 1, L do left = left + (count[i] == 0 and 1 or 0) end
        end
      end
      assert.equal(window < L, left > 0) -- tokens that no cluster took, and which get 0
    end
  end)

  it("has the gradients of its sums", function()
    local q, k, v, centroids = rows(41)
    for _, tied in ipairs { true, false } do
      -- Of rows that choose only where all are taken: differences must not flip a choice.
      local few = { centroids = centroids, window = 6, tied = tied }
      local all = { centroids = centroids:slice(2, 1, 2), window = L, tied = tied }
      pf.check.gradient(function(c)
        return pf.attention.balanced_routing(q, k, c, few)
      end, { v })
      pf.check.gradient(function(a, b)
        return pf.attention.balanced_routing(a, b, v, all)
      end, { q, k })
    end
  end)

  it("leaves masked tokens out", function()
    local q, k, v, centroids = rows(51)
    local keep = {}
    for b = 1, B do
      keep[b] = {}
      for l = 1, L do keep[b][l] = l <= 20 and 1 or 0 end
    end
    local o = { centroids = centroids, window = 30, mask = pf.tensor(keep, { dtype = "i32" }) }
    local all = pf.attention.balanced_routing(q, k, v, o)
    local short = pf.attention.balanced_routing(q:slice(3, 1, 20), k:slice(3, 1, 20),
      v:slice(3, 1, 20), { centroids = centroids, window = 20 })
    assert.near_tensor(short, all:slice(3, 1, 20), 1e-6)
    assert.equal(0, all:slice(3, 21, L):abs():max():item())
  end)

  it("refuses what it can't do", function()
    local q, k, v, centroids = rows(61)
    local function refused(text, o)
      assert.raises(text, function() pf.attention.balanced_routing(q, k, v, o) end)
    end
    refused("never causal", { centroids = centroids, causal = true })
    refused("centroids are needed", {})
    refused("window must be a whole number from 1, got 0", { centroids = centroids, window = 0 })
    refused("window = 38.*there are 37", { centroids = centroids, window = 38 })
    refused("centroids must be a tensor %(H, clusters, d%)", { centroids = q })
  end)
end)

describe("centroids", function()
  local D, heads, L, rate = 12, 3, 40, 0.25
  local d = D // heads

  local function layer(more)
    local attention = { name = "routing", clusters = 6, window = 8, rate = rate }
    for key, value in pairs(more or {}) do attention[key] = value end
    pf.seed(8)
    return pf.nn.attention { dim = D, heads = heads, causal = true, attention = attention }
  end

  --- One step of an optimizer that leaves the weights; x (B, L, D) in so many forwards.
  local function step(m, x, pass, forwards)
    pass = pass or {}
    pass.training, pass.step = true, 1
    for _ = 1, forwards or 1 do
      local tape <close> = pf.tape()
      tape:backward(m(x, pass):sum())
    end
    pf.optim.sgd(m, { lr = 0 }):step()
  end

  --- What they become, from the definition: rows (B, heads, L, d) of a forward.
  local function moved(centroids, list_of_rows, clusters, keep)
    local list = centroids:totable()
    for h, head in ipairs(list) do
      for c, mu in ipairs(head) do
        local sum, n = {}, 0
        for k = 1, d do sum[k] = 0 end
        for r, rows in ipairs(list_of_rows) do
          local numbers = clusters[r]
          for b = 1, #rows do
            for l = 1, L do
              if numbers[b][h][1][l] == c - 1 and not (keep and keep[b][l] == 0) then
                local unit_row = published.unit(rows[b][h][l])
                for k = 1, d do sum[k] = sum[k] + unit_row[k] end
                n = n + 1
              end
            end
          end
        end
        if n > 0 then
          sum = published.unit(sum)
          for k = 1, d do mu[k] = mu[k] + rate * (sum[k] - mu[k]) end
          head[c] = published.unit(mu)
        end
      end
    end
    return pf.tensor(list)
  end

  local function rows_of(m, x, from)
    local t = m:tensors()
    local w = t["qv.weight"] or t["qkv.weight"]
    local rows = pf.linear(x, w):slice(3, from * D + 1, (from + 1) * D)
    return rows:reshape(2, L, heads, d):transpose(2, 3)
  end

  it("are unit vectors, drawn for a layer's place", function()
    local centroids = layer():tensors().centroids
    assert.near_tensor(pf.ones(heads, 6), centroids:square():sum(3), 1e-6)
    assert.bits_equal(centroids, layer():tensors().centroids)
  end)

  it("go a part of the way to their rows when a step is over, and empty ones stay", function()
    local x = normals(3, 2, L, D)
    -- Few rows for many clusters leave some empty.
    for _, clusters in ipairs { 6, 60 } do
      local m = layer { clusters = clusters }
      local before = m:tensors().centroids:detach()
      local rows = rows_of(m, x, 0)
      local want = moved(before, { rows:totable() },
        { pf.nearest_cluster(rows, before):totable() })
      step(m, x)
      local after = m:tensors().centroids
      assert.near_tensor(want, after, 1e-6)
      local stayed = 0
      for _, way in ipairs((after - before):abs():sum(3):reshape(heads * clusters):totable()) do
        stayed = stayed + (way == 0 and 1 or 0)
      end
      assert.equal(clusters == 60, stayed > 0)
    end
  end)

  it("follow queries and keys where these are routed apart", function()
    local x, m = normals(4, 2, L, D), layer { tied = false }
    local before = m:tensors().centroids:detach()
    local q, k = rows_of(m, x, 0), rows_of(m, x, 1)
    local want = moved(before, { q:totable(), k:totable() }, {
      pf.nearest_cluster(q, before):totable(), pf.nearest_cluster(k, before):totable() })
    step(m, x)
    assert.near_tensor(want, m:tensors().centroids, 1e-6)
  end)

  it("do not follow padding, and all forwards of a step count", function()
    local x, m, keep = normals(5, 2, L, D), layer(), {}
    for b = 1, 2 do
      keep[b] = {}
      for l = 1, L do keep[b][l] = l % 3 == b and 0 or 1 end
    end
    local before, rows = m:tensors().centroids:detach(), rows_of(m, x, 0)
    local numbers = pf.nearest_cluster(rows, before):totable()
    step(m, x, { mask = pf.tensor(keep, { dtype = "i32" }) }, 2)
    assert.near_tensor(moved(before, { rows:totable() }, { numbers }, keep),
      m:tensors().centroids, 1e-6)
  end)

  it("stay in evaluation, without a step, and at rate 0", function()
    local x, m = normals(6, 2, L, D), layer()
    local before = m:tensors().centroids:detach()
    m(x)
    m(x, { training = false })
    pf.optim.sgd(m, { lr = 0 }):step()
    assert.bits_equal(before, m:tensors().centroids)
    do
      local tape <close> = pf.tape()
      tape:backward(m(x, { training = true, step = 1 }):sum())
    end
    assert.bits_equal(before, m:tensors().centroids)
    local still = layer { rate = 0 }
    step(still, x)
    assert.bits_equal(before, still:tensors().centroids)
  end)

  it("count the rows of a run that is repeated once", function()
    local ids = array.tensor(array.random(7):whole({ 2, L }, 0, 10))
    local function centroids(more)
      local o = { vocab = 11, dim = D, layers = 2, heads = heads, causal = true,
                  attention = { name = "routing", clusters = 6, rate = rate } }
      for key, value in pairs(more) do o[key] = value end
      pf.seed(9)
      local model = pf.nn.performer(o)
      do
        local tape <close> = pf.tape()
        tape:backward(model(ids, { training = true, step = 1 }):cross_entropy(ids))
      end
      pf.optim.sgd(model, { lr = 0 }):step()
      local found = {}
      for name, t in pairs(model:tensors()) do
        if name:find "centroids" then found[#found + 1] = name .. tostring(t:sum():item()) end
      end
      table.sort(found)
      return table.concat(found, " ")
    end
    local once = centroids {}
    assert.equal(once, centroids { recompute = true })
    assert.truthy(once:find "centroids")
  end)
end)
