-- items_spec.lua - the softmax over a set of items: log-partitions, expectations and
-- probabilities, whole, in pieces and after removals. Held against double precision in plain
-- Lua; loops over the registry of feature maps. Between positions: weights_spec.lua.
local pf = require "performer"
local array = require "spec.support.array"
local child = require "spec.support.child"
local oracle = require "spec.support.oracle"
local trial = require "spec.support.trial"
require "spec.support"

local D, DV = 6, 5
local largest, assert_sane = trial.largest, trial.assert_sane

--- Kernels under test: every map that is positive, and one made in Lua.
local function kernels()
  local list = {}
  for _, map in ipairs(pf.kernels().maps) do
    if map.positive then
      local options = { seed = 11, head_dim = D, features = map.softmax and 32 or nil }
      list[#list + 1] = { name = map.name, map = map.name, kernel = pf.kernel[map.name](options) }
    end
  end
  list[#list + 1] = { name = "custom", map = "elu",
    kernel = pf.kernel.custom { map = function(x) return x:elu() + 1 end } }
  return list
end

--- (n, d) as (1, 1, n, d).
local function rows(x)
  return array.new({ 1, 1, x.shape[1], x.shape[2] }, function(i) return x[i] end)
end

--- log Z of queries Q over keys K by the definition, in double.
local function log_partition(a, Q, K)
  local W = not a.kernel.map and a.kernel:projection(D)
  return oracle.log_partition({ q = rows(Q), k = rows(K), projection = W and array.of(W) },
    { map = a.map, scale = a.scale })[1]
end

--- Mean of the values under the estimated weights, in double.
local function expectation(a, Q, K, V)
  local out, one = {}, array.new({ 1, D })
  local Z = log_partition(a, Q, K)
  for n = 1, Q.shape[1] * DV do out[n] = 0 end
  for j = 1, K.shape[1] do
    for c = 1, D do one[c] = K[(j - 1) * D + c] end
    local z = log_partition(a, Q, one)
    for i = 1, Q.shape[1] do
      local w = math.exp(z[i] - Z[i])
      for c = 1, DV do
        out[(i - 1) * DV + c] = out[(i - 1) * DV + c] + w * V[(j - 1) * DV + c]
      end
    end
  end
  return out
end

local function draw(seed, n, width, scale)
  return array.random(seed):normals({ n, width }, scale or 1)
end

-- ---- sets of items --------------------------------------------------------------------

describe("a set of items", function()
  for _, a in ipairs(kernels()) do
    it("of " .. a.name .. " equals its definition, whole, in pieces, and after removals", function()
      local Q, K, V = draw(1, 9, D), draw(2, 40, D), draw(3, 40, DV)
      local q, k, v = trial.tensors(Q, K, V)
      local want, mean = log_partition(a, Q, K), expectation(a, Q, K, V)
      local items = pf.attention.items { kernel = a.kernel, keys = k, values = v }
      assert.equal(40, items:count())
      assert.near_tensor(array.tensor(want):reshape(9), items:log_partition(q), 1e-5)
      assert.near_tensor(pf.tensor(mean):reshape(9, DV), items:expectation(q), 1e-5)

      local pieces = pf.attention.items { kernel = a.kernel, dim = D, value_dim = DV }
      local noise, more = trial.tensors(draw(4, 25, D), draw(5, 25, DV))
      pieces:add(k:slice(1, 1, 7), v:slice(1, 1, 7)):add(noise, more)
      pieces:add(k:slice(1, 8, 40), v:slice(1, 8, 40)):remove(noise, more)
      assert.equal(40, pieces:count())
      assert.near_tensor(items:log_partition(q), pieces:log_partition(q), 1e-6)
      assert.near_tensor(items:expectation(q), pieces:expectation(q), 1e-6)
      pieces:remove(k, v)
      assert.equal(0, pieces:count())
      for _, z in ipairs(pieces:log_partition(q):totable()) do assert.equal(-math.huge, z) end
      assert.equal(0, largest(pieces:expectation(q)))
    end)

    it("of " .. a.name .. " gives probabilities of chosen items", function()
      local Q, K = draw(6, 4, D), draw(7, 30, D)
      local q, k = trial.tensors(Q, K)
      local items = pf.attention.items { kernel = a.kernel, keys = k }
      local p = items:probability(q, k, { estimate = true })
      assert.are.same({ 4, 30 }, { table.unpack(p:shape()) })
      assert.near_tensor(pf.ones(4), p:sum(-1), 1e-5)
      local log_p = items:probability(q, k, { estimate = true, log = true })
      assert.near_tensor(p, log_p:exp(), 1e-5)
      if not a.name:match "^softmax" then
        assert.bits_equal(p, items:probability(q, k)) -- there is no other score
        return
      end
      local scores = q:matmul(k:transpose(1, 2)) / math.sqrt(D)
      local z = items:log_partition(q):reshape(4, 1)
      assert.near_tensor(scores - z, items:probability(q, k, { log = true }), 1e-5)
    end)
  end

  it("answers by the logits' scale: q.k itself, a temperature", function()
    local Q, K = draw(8, 5, D, 0.5), draw(9, 20, D, 0.5)
    local q, k = trial.tensors(Q, K)
    for _, temperature in ipairs { 1, 2 } do
      local exact = (q:matmul(k:transpose(1, 2)) / temperature):logsumexp(-1)
      local kernel = pf.kernel.softmax { head_dim = D, features = 4096, seed = 2,
        scale = temperature ^ -0.5 }
      local items = pf.attention.items { kernel = kernel, keys = k }
      assert.is_true(largest(items:log_partition(q) - exact) < 0.15)
    end
  end)

  it("comes closer with more features", function()
    local q, k = trial.tensors(draw(10, 32, 16, 0.7), draw(11, 2000, 16, 0.7))
    local exact = (q:matmul(k:transpose(1, 2)) / 4):logsumexp(-1)
    local before
    for _, m in ipairs { 16, 64, 256, 1024 } do
      local sum, draws = 0, 6
      for seed = 1, draws do
        local items = pf.attention.items { keys = k,
          kernel = pf.kernel.softmax { head_dim = 16, features = m, seed = seed } }
        sum = sum + (items:log_partition(q) - exact):square():mean():item()
      end
      local gap = math.sqrt(sum / draws)
      print(("\n  log-partition over 2000 items, m = %4d: off by %.4f"):format(m, gap))
      assert.is_true(not before or gap < 0.75 * before)
      before = gap
    end
  end)

  it("bears subtraction of items that are far larger than what stays", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 64, seed = 3 }
    -- Along a projection's row log-shifts reach |w|^2 / 2; short keys stay near 0.
    local W = kernel:projection(D)
    local large = (W:slice(1, 1, 20) * D ^ 0.25):detach()
    local small, values = trial.tensors(draw(13, 10, D, 0.1), draw(14, 20, DV, 1e3))
    local q, v = trial.tensors(draw(15, 6, D), draw(16, 10, DV))
    local alone = pf.attention.items { kernel = kernel, keys = small, values = v }
    local items = pf.attention.items { kernel = kernel, keys = large, values = values }
    items:add(small, v):remove(large, values)
    assert.near_tensor(alone:log_partition(q), items:log_partition(q), 1e-6)
    assert.near_tensor(alone:expectation(q), items:expectation(q), 1e-6)
  end)

  it("stays sane for lengths from 1e-3 to 1e3, and is exactly empty afterwards", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 32, seed = 5 }
    local q, v = trial.tensors(draw(17, 5, D), draw(18, 300, DV))
    for _, scale in ipairs { 1e-3, 1, 30, 1e3, 1e6 } do
      local k = array.tensor(draw(19, 300, D, scale))
      local items = pf.attention.items { kernel = kernel, keys = k, values = v }
      for _, size in ipairs { 1, scale } do
        assert_sane(items:log_partition(q * size))
        assert.is_true(largest(items:expectation(q * size)) <= 1.01 * largest(v))
        assert_sane(items:probability(q * size, k, { estimate = true }))
      end
      items:remove(k:slice(1, 101, 300), v:slice(1, 101, 300))
      local rest = pf.attention.items { kernel = kernel, keys = k:slice(1, 1, 100),
                                        values = v:slice(1, 1, 100) }
      assert.equal(100, items:count())
      local want = rest:log_partition(q):totable()
      for i, z in ipairs(items:log_partition(q):totable()) do
        assert.is_true(z == want[i] or math.abs(z - want[i]) <= 1e-5 * math.max(1, math.abs(z)))
      end
      items:remove(k:slice(1, 1, 100), v:slice(1, 1, 100))
      for _, z in ipairs(items:log_partition(q):totable()) do assert.equal(-math.huge, z) end
      assert.equal(0, items:count())
    end
  end)

  it("keeps only so much, however many items come", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 32, seed = 5 }
    local items = pf.attention.items { kernel = kernel, dim = D, value_dim = DV }
    local most = 8 * (64 * 32 * (1 + DV)) + 32 * 8 + 4 * 32 * DV + 4096
    for n = 1, 3 do
      items:add(pf.randn(2000, D) * 10 ^ n, pf.randn(2000, DV))
      items:log_partition(pf.randn(1, D))
      assert.is_true(items:bytes() <= most, tostring(items))
    end
    assert.equal(6000, items:count())
    assert.truthy(tostring(items):find("6000 items", 1, true))
  end)

  it("says no to what it can't take, and is as before", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 32, seed = 5 }
    local k, v = trial.tensors(draw(20, 12, D), draw(21, 12, DV))
    local q = array.tensor(draw(22, 3, D))
    local items = pf.attention.items { kernel = kernel, keys = k, values = v }
    local before = items:log_partition(q)
    local bad, bad_v = draw(23, 4, D), draw(24, 4, DV)
    bad[9], bad_v[12] = 0 / 0, math.huge
    assert.raises("key 2 of 4 is not finite", function()
      items:add(array.tensor(bad), pf.randn(4, DV)) end)
    assert.raises("value 3 of 4 is not finite", function()
      items:add(pf.randn(4, D), array.tensor(bad_v)) end)
    assert.raises("not all of these", function() items:remove(pf.concat({ k, k }, 1),
      pf.concat({ v, v }, 1)) end)
    assert.raises("keys is %[4, 5%], must be %(count, 6%)", function()
      items:add(pf.randn(4, 5), pf.randn(4, DV)) end)
    assert.raises("values is %[4, 3%], must be %[4, 5%]", function()
      items:add(pf.randn(4, D), pf.randn(4, 3)) end)
    assert.raises("has values", function() items:add(pf.randn(4, D)) end)
    assert.raises("queries is %[2%]", function() items:log_partition(pf.randn(2)) end)
    assert.bits_equal(before, items:log_partition(q))
    assert.equal(12, items:count())
    local plain = pf.attention.items { kernel = kernel, keys = k }
    assert.raises("without values", function() plain:expectation(q) end)
    assert.raises("without values", function() plain:add(k, v) end)
    assert.raises("exact", function() pf.attention.items { kernel = "exact", keys = k } end)
    assert.raises("dim for an empty set", function() pf.attention.items { kernel = kernel } end)
    assert.raises("dim must be a whole number",
      function() pf.attention.items { kernel = kernel, dim = 0 / 0 } end)
    assert.raises("did you mean 'keys'", function() pf.attention.items { kyes = k } end)
    items:close()
    assert.raises("closed", function() items:count() end)
  end)

  it("takes none of nothing, and no queries", function()
    local items = pf.attention.items { kernel = "relu", dim = D, value_dim = DV }
    items:add(pf.zeros(0, D), pf.zeros(0, DV))
    assert.equal(0, items:count())
    assert.are.same({ 0, DV }, { table.unpack(items:expectation(pf.zeros(0, D)):shape()) })
    assert.are.same({ 2, 0 }, { table.unpack(items:probability(pf.randn(2, D),
      pf.zeros(0, D)):shape()) })
  end)
end)

-- ---- bits -----------------------------------------------------------------------------

describe("threads", function()
  it("change no bit", function()
    local code = [[
      local n, d = 3000, 12
      local kernel = pf.kernel.softmax { head_dim = d, features = 40, seed = 1 }
      pf.seed(4)
      local k, v, q = pf.randn(n, d), pf.randn(n, 7), pf.randn(400, d)
      local items = pf.attention.items { kernel = kernel, keys = k, values = v }
      items:remove(k:slice(1, 5, 900), v:slice(1, 5, 900))
      local sums = { items:log_partition(q), items:expectation(q), items:probability(q, q) }
      local x, y = pf.randn(2, 2, 300, d):requires_grad(), pf.randn(2, 2, 300, d):requires_grad()
      do
        local tape <close> = pf.tape()
        local z = pf.attention.log_partition(x, y, { kernel = kernel, causal = true })
        sums[4] = z:detach()
        tape:backward(z:sum())
      end
      sums[5], sums[6] = x:grad(), y:grad()
      local w, at = pf.attention.weights(x, y, { kernel = kernel, rows = { 300, 7 }, top = 4 })
      sums[7], sums[8] = w, at
      for _, t in ipairs(sums) do
        local hash = 0
        for byte in t:tobytes():gmatch "." do hash = (hash * 31 + byte:byte()) % 4294967291 end
        print(hash)
      end]]
    local one = child.run(code, "{ threads = 1 }")
    assert.equal(one, child.run(code, "{ threads = 2 }"))
    assert.equal(one, child.run(code, "{ threads = 3 }"))
  end)
end)
