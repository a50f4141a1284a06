-- attention_state_spec.lua - what attention remembers: entry and exit states that chain,
-- streams, features and what they estimate, the memory of a backward, and results that don't
-- depend on threads or the processor.
local pf = require "performer"
local array = require "spec.support.array"
local child = require "spec.support.child"
local judge = require "spec.support.attention"
local trial = require "spec.support.trial"

local C, H, D, DV = trial.C, trial.H, trial.D, trial.DV
local attentions, attend, inputs = trial.attentions, trial.attend, trial.inputs
local tensors, gradients, assert_close = trial.tensors, trial.gradients, trial.assert_close

-- ---- states ----------------------------------------------------------------------------

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
        local _, after = attend(a, none(q), none(k), none(v),
          { causal = true, state = true, entry = state })
        local first = attend(a, q, k, v, { causal = true, entry = state })
        local second = attend(a, q, k, v, { causal = true, entry = after })
        assert_close(array.of(first), array.of(second), nil, 1e-6, "what follows")
      end)
    end)
  end

  describe(a.name .. " streaming", function()
    local L, start = 2 * C + 7, C + 2
    local function new_state(B)
      return pf.attention.state { kernel = a.kernel or "exact", batch = B, heads = H, head_dim = D,
        value_dim = DV }
    end

    it("prefill and steps equal the whole sequence", function()
      local q, k, v = tensors(inputs(2, L, 31))
      local whole = array.of(attend(a, q, k, v, { causal = true }))
      local state = new_state(2)
      local function part(x, first, last) return x:slice(3, first, last) end
      local parts = { state:prefill(part(q, 1, start), part(k, 1, start), part(v, 1, start)) }
      assert.are.equal(start, state:position())
      for t = start + 1, L - 20 do parts[#parts + 1] = state:step(part(q, t, t), part(k, t, t),
        part(v, t, t)) end
      parts[#parts + 1] = state:prefill(part(q, L - 19, L), part(k, L - 19, L), part(v, L - 19, L))
      assert.are.equal(L, state:position())
      assert_close(whole, array.of(pf.concat(parts, 3)), L * DV, 1e-5, "the stream")
    end)

    it("steps from nothing equal the whole sequence", function()
      local n = 12
      local q, k, v = tensors(inputs(1, n, 32))
      local state, parts = new_state(1), {}
      for t = 1, n do parts[t] = state:step(q:slice(3, t, t), k:slice(3, t, t),
        v:slice(3, t, t)) end
      local whole = array.of(attend(a, q, k, v, { causal = true }))
      assert_close(whole, array.of(pf.concat(parts, 3)), n * DV, 1e-5, "the steps")
    end)

    it("a fork goes on alone, with the same bits", function()
      local q, k, v = tensors(inputs(1, 30, 33))
      local state = new_state(1)
      state:prefill(q:slice(3, 1, 20), k:slice(3, 1, 20), v:slice(3, 1, 20))
      local fork, other = state:fork(), state:fork()
      local function step(s, t) return s:step(q:slice(3, t, t), k:slice(3, t, t),
        v:slice(3, t, t)):tobytes() end
      step(other, 29)
      local ours, theirs = {}, {}
      for t = 21, 24 do ours[t] = step(state, t) end
      for t = 21, 24 do theirs[t] = step(fork, t) end
      assert.are.same(ours, theirs)
      assert.are.equal(20, other:position() - 1)
      assert.are.equal(state:bytes(), fork:bytes())
    end)

    it("says when a file can't be written", function()
      local fine, message, code = new_state(1):save "/nowhere/at/all.safetensors"
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

describe("options of a state", function()
  it("that are no table are refused", function()
    for _, bad in ipairs { 1, true, "exact" } do
      local _, message = pcall(pf.attention.state, bad)
      assert.is_truthy(message:find("attention.state: options must be a table", 1, true), message)
      _, message = pcall(pf.attention.load_state, "memory:none", bad)
      assert.is_truthy(message:find("options must be a table", 1, true), message)
    end
  end)
end)

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
    local state = pf.attention.state { kernel = mine, batch = 1, heads = H, head_dim = D,
      value_dim = DV }
    local parts = { state:prefill(q:slice(3, 1, 9), k:slice(3, 1, 9), v:slice(3, 1, 9)) }
    for t = 10, 14 do parts[#parts + 1] = state:step(q:slice(3, t, t), k:slice(3, t, t),
      v:slice(3, t, t)) end
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
      local W = array.of(pf.kernel.softmax { seed = seed, head_dim = #z, features = #z,
          per_head = true,
        rows = options.rows }:projection(#z, heads))
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
    for _, rows in ipairs { "orthogonal", "iid" } do
      for _, direction in ipairs { z, minus } do
        local mean, deviation = estimate(direction, { rows = rows })
        assert.is_true(deviation < 0.02)
        assert.is_true(math.abs(mean - 1) < 4.5 * deviation,
          ("mean %.4f +- %.4f"):format(mean, deviation))
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
    W = array.of(pf.kernel.softmax { seed = 3, head_dim = d, features = m,
        norms = "sqrt_d" }:projection(d))
    for a = 0, m - 1 do assert.are.near(d, product(a, a), 1e-3) end
  end)

  it("are drawn from the seed alone", function()
    local function bits(seed) return pf.kernel.softmax { seed = seed, head_dim = 8,
      features = 8 }:projection(8):tobytes() end
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
    -- Maps of both signs: inputs that keep the denominators away from 0.
    options.kernel = pf.kernel[map.name] { seed = 3, features = 24, head_dim = D,
      project = map.softmax or map.positive, scale = map.positive and 0 or 0.3 }
    show(map.name, function()
      local o = { causal = causal, mask = keep, kernel = options.kernel }
      if map.positive then return pf.attention.favor(q, k, v, o) end
      return pf.attention.favor(q:abs(), k:abs(), v, o)
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
