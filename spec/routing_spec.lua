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
      v:slice(3, 1, 20), { centroids = centroids, window = 30 })
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
    refused("centroids must be a tensor %(H, clusters, d%)", { centroids = q })
  end)
end)
