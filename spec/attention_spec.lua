-- attention_spec.lua - every attention against the definition in double precision
-- (support/attention.lua), and the promises of DESIGN section 5: causality to the bit, items
-- that don't depend on their neighbours, masks on keys, states that chain, extreme inputs.
-- Loops over the registry of feature maps: a map without a definition there fails.
local pf = require "performer"
local array = require "spec.support.array"
local child = require "spec.support.child"
local judge = require "spec.support.attention"

local C = 64 -- chunk length: what stands on either side of it is tested
local H, D, DV, M = 2, 6, 5, 16
local lengths = { 0, 1, C - 1, C, C + 1, 3 * C + 5 }

-- ---- the attentions under test ---------------------------------------------------------

--- {name, exact | map, kernel, W}: every map plain or projected as its default is, one map
-- projected though it need not be, and exact attention.
local function attentions()
  local list = { { name = "exact", exact = true } }
  for _, map in ipairs(pf.kernels().maps) do
    local options = { seed = 11, head_dim = D, features = map.softmax and M or nil }
    list[#list + 1] = { name = map.name, map = map.name, kernel = pf.kernel[map.name](options) }
    if not map.softmax then
      list[#list + 1] = { name = map.name .. ", projected", map = map.name,
        kernel = pf.kernel[map.name] { seed = 11, head_dim = D, features = M, per_head = true } }
    end
  end
  for _, a in ipairs(list) do
    local W = a.kernel and a.kernel:projection(D, H)
    a.W = W and array.of(W)
  end
  return list
end

--- Runs attention `a` in the engine; o: causal, mask, documents, state, entry (tensors).
local function attend(a, q, k, v, o)
  local options = {}
  for key, value in pairs(o or {}) do options[key] = value end
  if a.exact then return pf.attention.exact(q, k, v, options) end
  options.kernel = a.kernel
  return pf.attention.favor(q, k, v, options)
end

--- Inputs of length L as arrays, scaled so that |x|^2 stays well below 16.
local function inputs(B, L, seed, scale)
  local random = array.random(seed)
  return random:normals({ B, H, L, D }, scale or 1), random:normals({ B, H, L, D }, scale or 1),
    random:normals { B, H, L, DV }
end

--- (B, L) i32 of holes, or of runs of documents.
local function holes(B, L)
  return array.new({ B, L }, function(i) return (i - 1 + (i - 1) // L) % 5 == 2 and 0 or 1 end, "i32")
end

local function runs(B, L, length)
  return array.new({ B, L }, function(i)
    return ((i - 1) % L + (i - 1) // L * 7) // length
  end, "i32")
end

local function tensors(...)
  local list = {}
  for i, a in ipairs { ... } do list[i] = array.tensor(a) end
  return table.unpack(list)
end

--- The judge's call for attention a.
local function judged(a, q, k, v, o)
  return { exact = a.exact, map = a.map, W = a.W, q = q, k = k, v = v, causal = o.causal,
           mask = o.mask, documents = o.documents }
end

--- Options as tensors.
local function as_tensors(o)
  local options = { causal = o.causal }
  options.mask = o.mask and array.tensor(o.mask)
  options.documents = o.documents and array.tensor(o.documents)
  return options
end

--- Gradients of q, k, v for cotangents g.
local function gradients(a, q, k, v, g, o)
  for _, t in ipairs { q, k, v } do t:requires_grad() end
  local out
  do
    local tape <close> = pf.tape()
    local y = attend(a, q, k, v, o)
    out = y:detach()
    tape:backward((y * g):sum())
  end
  return out, q:grad(), k:grad(), v:grad()
end

local function assert_close(want, got, size, tolerance, what)
  local distance = array.distance(got, want, size)
  assert.is_true(distance <= tolerance, ("%s is off by %.3g"):format(what, distance))
end

--- Forward and gradients of one case against the judge, head by head.
local function hold_against(a, B, L, o, seed)
  local q, k, v = inputs(B, L, seed or L + 1)
  local g = array.random(L + 77):normals(v.shape)
  local call = judged(a, q, k, v, o)
  local tq, tk, tv, tg = tensors(q, k, v, g)
  local out, dq, dk, dv = gradients(a, tq, tk, tv, tg, as_tensors(o))
  if L == 0 then
    assert.are.same({ B, H, 0, DV }, { table.unpack(out:shape()) })
    return
  end
  assert_close(judge.forward(call), array.of(out), L * DV, 1e-5, "the output")
  local wq, wk, wv = judge.backward(call, g)
  assert_close(wv, array.of(dv), L * DV, 1e-4, "the gradient of v")
  -- One key alone: weights are 1 whatever q and k are, and their gradients rounding.
  if L == 1 then
    assert.is_true(array.largest(array.of(dq)) < 1e-5 and array.largest(array.of(dk)) < 1e-5)
    return
  end
  assert_close(wq, array.of(dq), L * D, 1e-4, "the gradient of q")
  assert_close(wk, array.of(dk), L * D, 1e-4, "the gradient of k")
end

local function bytes_of(t, first, last) return t:slice(3, first, last):tobytes() end

-- ---- the judge itself ------------------------------------------------------------------

describe("the judge", function()
  it("has gradients that are the differences of its forward", function()
    for _, a in ipairs(attentions()) do
      local q, k, v = inputs(1, 7, 3)
      local g = array.random(5):normals(v.shape)
      local o = judged(a, q, k, v, { causal = true, mask = holes(1, 7) })
      local grads = { judge.backward(o, g) }
      for n, x in ipairs { q, k, v } do
        for i = 1, #x, 11 do
          local kept, sum = x[i], {}
          for side = -1, 1, 2 do
            x[i] = kept + side * 1e-5
            local out = judge.forward(o)
            sum[side] = 0
            for e = 1, #out do sum[side] = sum[side] + out[e] * g[e] end
          end
          x[i] = kept
          assert.are.near((sum[1] - sum[-1]) / 2e-5, grads[n][i], 1e-7, a.name)
        end
      end
    end
  end)
end)

-- ---- closeness -------------------------------------------------------------------------

for _, a in ipairs(attentions()) do
  describe(a.name .. " attention", function()
    for _, causal in ipairs { false, true } do
      it((causal and "causal" or "full") .. " equals its definition at every length", function()
        for _, L in ipairs(lengths) do
          hold_against(a, L > 2 * C and 1 or 2, L, { causal = causal })
        end
      end)

      it((causal and "causal" or "full") .. " with masks and documents", function()
        local L = C + 9
        hold_against(a, 2, L, { causal = causal, mask = holes(2, L) })
        hold_against(a, 2, L, { causal = causal, documents = runs(2, L, 29) })
        hold_against(a, 1, L, { causal = causal, mask = holes(1, L), documents = runs(1, L, 13) })
      end)
    end

    it("gives 0 and gradients 0 where every key is masked", function()
      local B, L = 2, C + 3
      local q, k, v = tensors(inputs(B, L, 4))
      -- Item 1 has no key at all, item 2 none in its first half (nothing for causal rows).
      local keep = array.tensor(array.new({ B, L }, function(i) return i > L + L // 2 and 1 or 0 end, "i32"))
      for _, causal in ipairs { false, true } do
        local out, dq, dk, dv = gradients(a, q, k, v, pf.ones(B, H, L, DV), { mask = keep, causal = causal })
        for name, t in pairs { out = out, dq = dq, dk = dk, dv = dv } do
          assert.are.equal(0, t[1]:abs():max():item(), name)
          assert.is_true(array.all_finite(array.of(t)), name)
        end
        if causal then
          assert.are.equal(0, out[2]:slice(2, 1, L // 2):abs():max():item())
          assert.are.equal(0, dq[2]:slice(2, 1, L // 2):abs():max():item())
        end
        assert.are.equal(0, dk[2]:slice(2, 1, L // 2):abs():max():item())
        for _, t in ipairs { q, k, v } do t:clear_grad() end
      end
    end)

    it("is finite, forward and backward, at extreme scales", function()
      local L = C + 5
      for _, scale in ipairs { { 1e-3, 1e-3 }, { 1, 1e3 }, { 1e3, 1 }, { 1e3, 1e3 }, { 1e-3, 1e3 } } do
        local q, k, v = tensors(inputs(1, L, 8))
        q, k = (q * scale[1]):detach(), (k * scale[2]):detach()
        for _, causal in ipairs { false, true } do
          local results = { gradients(a, q, k, v, pf.ones(1, H, L, DV), { causal = causal }) }
          for i, t in ipairs(results) do
            assert.is_true(array.all_finite(array.of(t)), ("scales %g %g, result %d"):format(scale[1], scale[2], i))
          end
          assert.is_true(results[1]:abs():max():item() <= v:abs():max():item() * 1.0001)
          for _, t in ipairs { q, k, v } do t:clear_grad() end
        end
      end
      local q, k, v = inputs(1, L, 9)
      for c = 1, D do k[20 * D + c] = 1e3 end
      local results = { gradients(a, array.tensor(q), array.tensor(k), array.tensor(v), pf.ones(1, H, L, DV),
        { causal = true }) }
      for _, t in ipairs(results) do assert.is_true(array.all_finite(array.of(t))) end
    end)

    it("gives a prefix the same bits whatever follows", function()
      local L = 2 * C + 9
      local q, k, v = inputs(1, L, 12)
      local whole = attend(a, array.tensor(q), array.tensor(k), array.tensor(v), { causal = true })
      for _, t in ipairs { 1, 40, C, C + 1, 2 * C + 3 } do
        for _, alien in ipairs { 1e4, 0 / 0, math.huge, -math.huge } do
          local other = {}
          for n, x in ipairs { q, k, v } do
            local width = x.shape[4]
            other[n] = array.new(x.shape, function(i)
              return (i - 1) // width % L + 1 > t and alien or x[i]
            end)
          end
          local y = attend(a, array.tensor(other[1]), array.tensor(other[2]), array.tensor(other[3]), { causal = true })
          assert.are.equal(bytes_of(whole, 1, t), bytes_of(y, 1, t), ("up to %d, then %g"):format(t, alien))
        end
        local function cut(x) return array.tensor(x):slice(3, 1, t) end
        assert.are.equal(bytes_of(whole, 1, t), attend(a, cut(q), cut(k), cut(v), { causal = true }):tobytes(),
          "cut after " .. t)
      end
    end)

    it("ignores masked padding to the bit, whatever stands there", function()
      local L, pad = C + 6, 70
      local q, k, v = inputs(1, L, 13)
      local function padded(x)
        local width = x.shape[4]
        return array.new({ 1, H, L + pad, width }, function(i)
          local row, c = (i - 1) // width, (i - 1) % width + 1
          local h, l = row // (L + pad), row % (L + pad)
          return l < L and x[(h * L + l) * width + c] or 0 / 0
        end)
      end
      local keep = array.tensor(array.new({ 1, L + pad }, function(i) return i <= L and 1 or 0 end, "i32"))
      for _, causal in ipairs { false, true } do
        local alone = attend(a, array.tensor(q), array.tensor(k), array.tensor(v), { causal = causal })
        local y = attend(a, array.tensor(padded(q)), array.tensor(padded(k)), array.tensor(padded(v)),
          { causal = causal, mask = keep })
        assert.are.equal(alone:tobytes(), bytes_of(y, 1, L))
      end
    end)

    it("gives an item the same bits whatever its neighbours", function()
      local B, L = 3, C + 7
      local q, k, v = inputs(B, L, 14)
      local tq, tk, tv = tensors(q, k, v)
      for _, causal in ipairs { false, true } do
        local whole = attend(a, tq, tk, tv, { causal = causal })
        for b = 1, B do
          local y = attend(a, tq:slice(1, b, b), tk:slice(1, b, b), tv:slice(1, b, b), { causal = causal })
          assert.are.equal(whole:slice(1, b, b):tobytes(), y:tobytes())
        end
        local poisoned = array.copy(k)
        for i = 1, H * L * D do poisoned[i] = 0 / 0 end
        local y = attend(a, tq, array.tensor(poisoned), tv, { causal = causal })
        assert.are.equal(whole:slice(1, 2, 3):tobytes(), y:slice(1, 2, 3):tobytes())
      end
    end)

    it("gives packed documents the bits they have alone", function()
      local L, cuts = 2 * C + 20, { 0, 10, 10 + C, 2 * C + 19, 2 * C + 20 }
      local q, k, v = tensors(inputs(1, L, 15))
      local number = array.tensor(array.new({ 1, L }, function(i)
        local document = 0
        for n, cut in ipairs(cuts) do document = i > cut and n or document end
        return document
      end, "i32"))
      for _, causal in ipairs { false, true } do
        local packed = attend(a, q, k, v, { causal = causal, documents = number })
        for n = 1, #cuts - 1 do
          local first, last = cuts[n] + 1, cuts[n + 1]
          local y = attend(a, q:slice(3, first, last), k:slice(3, first, last), v:slice(3, first, last),
            { causal = causal })
          assert.are.equal(bytes_of(packed, first, last), y:tobytes())
        end
      end
    end)

    it("reads q, k and v in any layout with the same result", function()
      local q, k, v = inputs(2, C + 3, 16)
      local want = array.of(attend(a, array.tensor(q), array.tensor(k), array.tensor(v), { causal = true }))
      for _, layout in ipairs { "transposed", "sliced" } do
        local got = array.of(attend(a, array.tensor(q, layout), array.tensor(k, layout), array.tensor(v, layout),
          { causal = true }))
        assert_close(want, got, (C + 3) * DV, 1e-6, layout)
      end
    end)
  end)
end

-- ---- states ----------------------------------------------------------------------------

local function detached(state)
  local copy = {}
  for name, t in pairs(state) do copy[name] = t:detach() end
  return copy
end

for _, a in ipairs(attentions()) do
  if a.kernel then
    describe(a.name .. " states", function()
      local L, cut = 2 * C + 11, C + 5

      it("chain: two segments are one sequence, gradients too", function()
        local q, k, v = tensors(inputs(2, L, 21))
        local g = array.tensor(array.random(6):normals { 2, H, L, DV })
        local whole, wq, wk, wv = gradients(a, q, k, v, g, { causal = true })
        whole, wq, wk, wv = array.of(whole), array.of(wq), array.of(wk), array.of(wv)
        for _, t in ipairs { q, k, v } do t:clear_grad() end
        local out
        do
          local tape <close> = pf.tape()
          local function part(x, first, last) return x:slice(3, first, last) end
          local first, state = attend(a, part(q, 1, cut), part(k, 1, cut), part(v, 1, cut),
            { causal = true, state = true })
          local second = attend(a, part(q, cut + 1, L), part(k, cut + 1, L), part(v, cut + 1, L),
            { causal = true, entry = state })
          local y = pf.concat({ first, second }, 3)
          out = array.of(y)
          tape:backward((y * g):sum())
        end
        assert_close(whole, out, L * DV, 1e-5, "the output")
        assert_close(wq, array.of(q:grad()), L * D, 1e-4, "the gradient of q")
        assert_close(wk, array.of(k:grad()), L * D, 1e-4, "the gradient of k")
        assert_close(wv, array.of(v:grad()), L * DV, 1e-4, "the gradient of v")
      end)

      it("an empty segment hands its entry state on", function()
        local q, k, v = tensors(inputs(1, 9, 22))
        local _, state = attend(a, q, k, v, { causal = true, state = true })
        local none = function(x) return x:slice(3, 2, 1) end
        local _, after = attend(a, none(q), none(k), none(v), { causal = true, state = true, entry = state })
        local first = attend(a, q, k, v, { causal = true, entry = state })
        local second = attend(a, q, k, v, { causal = true, entry = after })
        assert_close(array.of(first), array.of(second), nil, 1e-6, "what follows")
      end)
    end)
  end

  describe(a.name .. " streaming", function()
    local L, start = 2 * C + 7, C + 2
    local function new_state(B)
      return pf.attention.state { kernel = a.kernel or "exact", batch = B, heads = H, head_dim = D, value_dim = DV }
    end

    it("prefill and steps equal the whole sequence", function()
      local q, k, v = tensors(inputs(2, L, 31))
      local whole = array.of(attend(a, q, k, v, { causal = true }))
      local state = new_state(2)
      local function part(x, first, last) return x:slice(3, first, last) end
      local parts = { state:prefill(part(q, 1, start), part(k, 1, start), part(v, 1, start)) }
      assert.are.equal(start, state:position())
      for t = start + 1, L - 20 do parts[#parts + 1] = state:step(part(q, t, t), part(k, t, t), part(v, t, t)) end
      parts[#parts + 1] = state:prefill(part(q, L - 19, L), part(k, L - 19, L), part(v, L - 19, L))
      assert.are.equal(L, state:position())
      assert_close(whole, array.of(pf.concat(parts, 3)), L * DV, 1e-5, "the stream")
    end)

    it("steps from nothing equal the whole sequence", function()
      local n = 12
      local q, k, v = tensors(inputs(1, n, 32))
      local state, parts = new_state(1), {}
      for t = 1, n do parts[t] = state:step(q:slice(3, t, t), k:slice(3, t, t), v:slice(3, t, t)) end
      local whole = array.of(attend(a, q, k, v, { causal = true }))
      assert_close(whole, array.of(pf.concat(parts, 3)), n * DV, 1e-5, "the steps")
    end)

    it("a fork goes on alone, with the same bits", function()
      local q, k, v = tensors(inputs(1, 30, 33))
      local state = new_state(1)
      state:prefill(q:slice(3, 1, 20), k:slice(3, 1, 20), v:slice(3, 1, 20))
      local fork, other = state:fork(), state:fork()
      local function step(s, t) return s:step(q:slice(3, t, t), k:slice(3, t, t), v:slice(3, t, t)):tobytes() end
      step(other, 29)
      local ours, theirs = {}, {}
      for t = 21, 24 do ours[t] = step(state, t) end
      for t = 21, 24 do theirs[t] = step(fork, t) end
      assert.are.same(ours, theirs)
      assert.are.equal(20, other:position() - 1)
      assert.are.equal(state:bytes(), fork:bytes())
    end)

    it("saves what it remembers", function()
      local q, k, v = tensors(inputs(1, 20, 34))
      local state, path = new_state(1), os.tmpname()
      state:prefill(q, k, v)
      assert.is_true(state:save(path))
      local saved = assert(pf.load(path))
      os.remove(path)
      local bytes = 0
      for _, t in pairs(saved) do bytes = bytes + 4 * t:numel() end
      assert.is_true(bytes >= state:bytes())
      local fine, message, code = state:save "/nowhere/at/all.safetensors"
      assert.is_nil(fine)
      assert.is_string(message)
      assert.is_string(code)
    end)

    if not a.exact then
      it("costs the same bytes at any length", function()
        local state = new_state(1)
        local q, k, v = tensors(inputs(1, 40, 35))
        state:prefill(q:slice(3, 1, 3), k:slice(3, 1, 3), v:slice(3, 1, 3))
        local bytes = state:bytes()
        state:prefill(q, k, v)
        assert.are.equal(bytes, state:bytes())
      end)
    end
  end)
end

describe("a custom kernel", function()
  it("is the same operator: elu + 1 written in Lua is the map elu", function()
    local q, k, v = tensors(inputs(1, C + 9, 41))
    local mine = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    local a = { kernel = mine }
    local theirs = { kernel = pf.kernel.elu {} }
    for _, causal in ipairs { false, true } do
      assert_close(array.of(attend(theirs, q, k, v, { causal = causal })),
        array.of(attend(a, q, k, v, { causal = causal })), nil, 1e-5, "the custom kernel")
    end
    local state = pf.attention.state { kernel = mine, batch = 1, heads = H, head_dim = D, value_dim = DV }
    local parts = { state:prefill(q:slice(3, 1, 9), k:slice(3, 1, 9), v:slice(3, 1, 9)) }
    for t = 10, 14 do parts[#parts + 1] = state:step(q:slice(3, t, t), k:slice(3, t, t), v:slice(3, t, t)) end
    local want = attend(theirs, q, k, v, { causal = true }):slice(3, 1, 14)
    assert_close(array.of(want), array.of(pf.concat(parts, 3)), nil, 1e-5, "its stream")
  end)
end)

-- ---- features and their estimate -------------------------------------------------------

describe("the features", function()
  it("of every map are its plain definition", function()
    local x = inputs(2, 5, 51)
    for _, a in ipairs(attentions()) do
      if a.kernel then
        for _, side in ipairs { "query", "key" } do
          local got = array.of(a.kernel:features(array.tensor(x), side))
          local want = judge.features(x, { map = a.map, W = a.W })
          assert.is_nil(array.differs(got, want, 1e-5, 1e-6 * array.largest(want)), a.name)
        end
      end
    end
    assert.has_error(function() pf.kernel.elu {}:features(array.tensor(x), "both") end)
  end)

  --- Mean and standard error of exp(w.z - |z|^2 / 2) over many draws, by head blocks.
  local function estimate(z, options)
    local means, heads = {}, 64
    for seed = 1, 40 do
      local W = array.of(pf.kernel.softmax { seed = seed, head_dim = #z, features = #z, per_head = true,
        orthogonal = options.orthogonal, regular = options.regular }:projection(#z, heads))
      local half = 0
      for _, value in ipairs(z) do half = half + value * value / 2 end
      for h = 0, heads - 1 do
        local sum = 0
        for row = h * #z, h * #z + #z - 1 do
          local u = 0
          for c = 1, #z do u = u + W[row * #z + c] * z[c] end
          sum = sum + math.exp(u - half) / #z
        end
        means[#means + 1] = sum
      end
    end
    local mean, square = 0, 0
    for _, x in ipairs(means) do mean = mean + x / #means end
    for _, x in ipairs(means) do square = square + (x - mean) ^ 2 end
    return mean, math.sqrt(square) / #means
  end

  it("estimate exp(x.y) without bias, for z and for -z", function()
    local z, minus = { 0.9, -0.2, 0.4, 0.1, 0.5, -0.3, 0.2, 0.6 }, {}
    for i, value in ipairs(z) do minus[i] = -value end
    for _, orthogonal in ipairs { true, false } do
      for _, direction in ipairs { z, minus } do
        local mean, deviation = estimate(direction, { orthogonal = orthogonal })
        assert.is_true(deviation < 0.02)
        assert.is_true(math.abs(mean - 1) < 4.5 * deviation, ("mean %.4f +- %.4f"):format(mean, deviation))
      end
    end
  end)

  it("come from block-orthogonal rows with the norms of Gaussian ones", function()
    local d, m = 8, 20
    local W = array.of(pf.kernel.softmax { seed = 3, head_dim = d, features = m }:projection(d))
    local function product(a, b)
      local sum = 0
      for c = 1, d do sum = sum + W[a * d + c] * W[b * d + c] end
      return sum
    end
    local norms = 0
    for a = 0, m - 1 do
      norms = norms + product(a, a) / m
      for b = a + 1, (a // d + 1) * d - 1 do
        if b < m then assert.is_true(math.abs(product(a, b)) < 1e-4) end
      end
    end
    assert.is_true(norms > d / 2 and norms < 2 * d)
    W = array.of(pf.kernel.softmax { seed = 3, head_dim = d, features = m, regular = true }:projection(d))
    for a = 0, m - 1 do assert.are.near(d, product(a, a), 1e-3) end
  end)

  it("are drawn from the seed alone", function()
    local function bits(seed) return pf.kernel.softmax { seed = seed, head_dim = 8, features = 8 }:projection(8):tobytes() end
    local before = bits(5)
    pf.randn(10)
    assert.are.equal(before, bits(5))
    assert.are_not.equal(before, bits(6))
  end)
end)

-- ---- memory ----------------------------------------------------------------------------

describe("the backward", function()
  it("keeps q, k, v, out and two numbers a row, never the features", function()
    local L, d, m = 2048, 16, 128
    local kernel = pf.kernel.softmax { head_dim = d, features = m, seed = 1 }
    local q, k, v = pf.randn(1, H, L, d):requires_grad(), pf.randn(1, H, L, d), pf.randn(1, H, L, d)
    for _, causal in ipairs { false, true } do
      local function run()
        local tape <close> = pf.tape()
        local before = pf.memory().live
        local out = pf.attention.favor(q, k, v, { kernel = kernel, causal = causal })
        local held = pf.memory().live - before
        tape:backward(out:sum())
        return held
      end
      run()
      local held, rows = run(), H * L
      local out_bytes = rows * d * 4
      assert.is_true(held >= out_bytes)
      assert.is_true(held <= out_bytes + 2 * rows * 4 + 16384, ("%d bytes held"):format(held))
      q:clear_grad()
    end
  end)
end)

-- ---- threads and processors ------------------------------------------------------------

--- Forward and gradients of every attention in a process of its own, as hexadecimal lines.
local everything = [[
local H, D, L = 2, 8, 150
local random = array.random(61)
local function tensor(...) return array.tensor(random:normals { ... }):requires_grad() end
local q, k, v = tensor(3, H, L, D), tensor(3, H, L, D), tensor(3, H, L, D)
local keep = array.tensor(random:whole({ 3, L }, 0, 3))
local function show(name, f)
  local y
  do
    local tape <close> = pf.tape()
    local out = f()
    y = out:detach()
    tape:backward((out * out):sum())
  end
  for _, t in ipairs { y, q:grad(), k:grad(), v:grad() } do print(name, array.hex(t)) end
  for _, t in ipairs { q, k, v } do t:clear_grad() end
end
for _, causal in ipairs { false, true } do
  local options = { causal = causal, mask = keep }
  show("exact", function() return pf.attention.exact(q, k, v, options) end)
  for _, map in ipairs(pf.kernels().maps) do
    options.kernel = pf.kernel[map.name] { seed = 3, features = 24, head_dim = D }
    show(map.name, function()
      local o = { causal = causal, mask = keep, kernel = options.kernel }
      return pf.attention.favor(q, k, v, o)
    end)
  end
end
]]

describe("threads", function()
  it("never change a bit", function()
    local one = child.run(everything, "{threads = 1}")
    assert.is_true(#one > 1e5)
    for _, n in ipairs { 2, 4 } do
      assert.is_true(one == child.run(everything, ("{threads = %d}"):format(n)), n .. " threads")
    end
  end)
end)

describe("CPU levels", function()
  --- Lists of numbers, one a printed line.
  local function numbers(text)
    local lists = {}
    for hex in text:gmatch "%S+\t(%x+)\n" do
      local list = {}
      for eight in hex:gmatch "........" do
        local bytes = eight:gsub("..", function(b) return string.char(tonumber(b, 16)) end)
        list[#list + 1] = string.unpack("<f", bytes)
      end
      lists[#lists + 1] = list
    end
    return lists
  end

  it("agree to 1e-5 forward and 1e-4 backward", function()
    local levels = { "generic" }
    local best = child.run("print(pf.info().cpu)", "{}", { PF_CPU = false }):match "%w+"
    if best ~= "generic" then levels[2] = "avx2" end
    if best == "avx512" then levels[3] = "avx512" end
    local judged = numbers(child.run(everything, "{threads = 2}", { PF_CPU = "generic" }))
    assert.is_true(#judged >= 8)
    for n = 2, #levels do
      local lists = numbers(child.run(everything, "{threads = 2}", { PF_CPU = levels[n] }))
      assert.are.equal(#judged, #lists)
      for i, want in ipairs(judged) do
        local distance = array.distance(lists[i], want, #want // 6)
        assert.is_true(distance <= (i % 4 == 1 and 1e-5 or 1e-4),
          ("%s, list %d: off by %.3g"):format(levels[n], i, distance))
      end
    end
  end)

  it("are named when they are not there", function()
    assert.has_error(function() child.run("print(1)", "{}", { PF_CPU = "avx1024" }) end)
  end)
end)
