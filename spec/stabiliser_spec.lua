-- stabiliser_spec.lua - softmax features as published: `stabiliser = "reference"`, and presets in
-- full attention, against performer-pytorch's formula in double and in ops; what the mask hides;
-- gradients; and who refuses it, with the reason.
local pf = require "performer"
local array = require "spec.support.array"
require "spec.support"
local nn = pf.nn

local H, L, D, M, DV = 2, 7, 4, 6, 3

local function randn(seed, ...)
  pf.seed(seed)
  return pf.randn(...):detach()
end

local W = randn(4, H, M, D)
--- Long rows: there the two meanings of eps are far apart.
local function qkv()
  return (randn(1, 2, H, L, D) * 2):detach(), (randn(2, 2, H, L, D) * 2):detach(),
    randn(3, 2, H, L, DV)
end

--- The published features of one head's rows, in double; `keep[j]` false: there is no such key.
local function features(x, item, head, eps, is_key, keep)
  local length, rows, w = x.shape[3], {}, array.of(W)
  local scale, top = D ^ -0.25, -math.huge
  for j = 1, length do
    local u, half, own = {}, 0, -math.huge
    local at = (((item - 1) * H + head - 1) * length + j - 1) * D
    for i = 1, D do half = half + (scale * x[at + i]) ^ 2 / 2 end
    for a = 1, M do
      u[a] = 0
      for i = 1, D do u[a] = u[a] + scale * x[at + i] * w[((head - 1) * M + a - 1) * D + i] end
      own = math.max(own, u[a])
    end
    rows[j] = { u = u, half = half, top = own }
    if keep[j] then top = math.max(top, own) end
  end
  for _, row in ipairs(rows) do
    local most = is_key and top or row.top
    for a = 1, M do row[a] = math.exp(row.u[a] - row.half - most) + eps end
  end
  return rows
end

--- Full attention on them: an array (2, H, L, DV).
local function published(q, k, v, eps, keep)
  local qa, ka, va = array.of(q), array.of(k), array.of(v)
  local out = array.new(v:shape())
  for item = 1, 2 do
    for head = 1, H do
      local fq = features(qa, item, head, eps, false, keep[item])
      local fk = features(ka, item, head, eps, true, keep[item])
      for i = 1, L do
        local sum, total = {}, 0
        for j = 1, L do
          local weight = 0
          for a = 1, M do weight = weight + fq[i][a] * fk[j][a] end
          if not keep[item][j] then weight = 0 end
          total = total + weight
          local at = (((item - 1) * H + head - 1) * L + j - 1) * DV
          for c = 1, DV do sum[c] = (sum[c] or 0) + weight * (weight == 0 and 0 or va[at + c]) end
        end
        local at = (((item - 1) * H + head - 1) * L + i - 1) * DV
        for c = 1, DV do out[at + c] = sum[c] / total end
      end
    end
  end
  return out
end

local all = {}
for j = 1, L do all[j] = true end

local function hold(got, want)
  local problem = array.differs(array.of(got), want, 1e-5, 1e-5 * array.largest(want))
  assert.is_nil(problem, problem)
end

local function kernel_of(more)
  local options = { preset = "pytorch", projection = W }
  for name, value in pairs(more or {}) do options[name] = value end
  return pf.kernel.softmax(options)
end

describe("presets in full attention", function()
  it("give the published numbers", function()
    local q, k, v = qkv()
    for preset, eps in pairs { pytorch = 1e-4, authors = 1e-6 } do
      local out = pf.attention.favor(q, k, v, { kernel = kernel_of { preset = preset } })
      hold(out, published(q, k, v, eps, { all, all }))
      local other = kernel_of { preset = preset, stabiliser = "position" }
      local by_position = pf.attention.favor(q, k, v, { kernel = other })
      if preset == "pytorch" then
        assert.is_true((out - by_position):abs():max():item() > 1e-3)
      end
    end
  end)

  it("do so in a layer, and after it was saved", function()
    local folder = os.tmpname()
    os.remove(folder)
    finally(function() os.execute("rm -r '" .. folder .. "'") end)
    local options = { dim = 8, heads = 2, causal = false,
                      kernel = { name = "softmax", features = 8, eps = 0.01, seed = 3,
                                 stabiliser = "reference" } }
    local layer, x = nn.attention(options), randn(5, 2, 9, 8)
    options.kernel.stabiliser = "position"
    local by_position = nn.attention(options)
    for name, t in pairs(by_position:tensors()) do t:copy_(layer:tensors()[name]) end
    local y = layer(x)
    assert.is_true((y - by_position(x)):abs():max():item() > 1e-4)
    assert(pf.checkpoint.save(folder, { model = layer }))
    local loaded = assert(pf.checkpoint.model(folder))
    assert.equal("reference", loaded:tree().options.kernel.stabiliser)
    assert.bits_equal(y, loaded(x))
  end)

  it("leave causal attention, states and the other maps by position, to the bit", function()
    local q, k, v = qkv()
    local own = kernel_of { preset = "own", eps = 1e-4 }
    assert.bits_equal(pf.attention.favor(q, k, v, { kernel = own, causal = true }),
      pf.attention.favor(q, k, v, { kernel = kernel_of(), causal = true }))
    local function prefill(kernel)
      local state = pf.attention.state { kernel = kernel, batch = 2, heads = H, value_dim = DV }
      return state:prefill(q, k, v)
    end
    assert.bits_equal(prefill(own), prefill(kernel_of()))
    for _, map in ipairs { "softmax_hyp", "softmax_plus" } do
      local theirs = pf.kernel[map] { preset = "pytorch", projection = W }
      local ours = pf.kernel[map] { eps = 1e-4, projection = W }
      assert.bits_equal(pf.attention.favor(q, k, v, { kernel = ours }),
        pf.attention.favor(q, k, v, { kernel = theirs }))
    end
  end)
end)

describe("the reference's stabiliser", function()
  local kernel = kernel_of { preset = "own", stabiliser = "reference", eps = 0.01 }

  it("sees no key that the mask hides, whatever stands there", function()
    local q, k, v = qkv()
    local mask = pf.tensor({ { 1, 0, 1, 1, 1, 0, 0 }, { 0, 1, 1, 1, 1, 1, 1 } }, { dtype = "i32" })
    local keep = { {}, {} }
    for item = 1, 2 do
      for j = 1, L do keep[item][j] = mask[item][j]:item() == 1 end
    end
    local want = published(q, k, v, 0.01, keep)
    hold(pf.attention.favor(q, k, v, { kernel = kernel, mask = mask }), want)
    for _, value in ipairs { 1e3, -1e30, 1 / 0, 0 / 0 } do
      local bad_k, bad_v = k:detach():requires_grad(), v:detach()
      for _, t in ipairs { bad_k, bad_v } do
        local flat = t:transpose(2, 3) -- (B, L, H, width): one position is a row
        for item = 1, 2 do
          for j = 1, L do
            if not keep[item][j] then flat[item][j]:fill_(value) end
          end
        end
      end
      local tape <close> = pf.tape()
      local out = pf.attention.favor(q, bad_k, bad_v, { kernel = kernel, mask = mask })
      hold(out, want)
      tape:backward(out:sum())
      local most = bad_k:grad():abs():max():item()
      assert.is_true(most < math.huge)
    end
  end)

  it("has the gradients of its formula, over blocks of rows and grouped heads", function()
    local q, k, v = qkv()
    pf.check.gradient(function(a, b, c)
      return pf.attention.favor(a, b, c, { kernel = kernel })
    end, { q, k, v })
    -- 300 rows: blocks of 128. The same from ops, as a map of one's own.
    local long_q, long_k = randn(9, 2, 2 * H, 300, D), randn(8, 2, H, 300, D)
    local long_v = randn(7, 2, H, 300, DV)
    local theirs = pf.kernel.custom { map = function(x, side)
      local y = x * D ^ -0.25
      local w = side == "key" and W or pf.concat({ W:slice(1, 1, 1), W:slice(1, 1, 1),
                                                   W:slice(1, 2, 2), W:slice(1, 2, 2) }, 1)
      local u = y:matmul(w:transpose())
      local top = u:max(-1, true)
      if side == "key" then top = top:max(3, true) end
      return (u - y:square():sum(-1, true) * 0.5 - top):exp() + 0.01
    end }
    local lists = {}
    for i, each in ipairs { kernel, theirs } do
      local inputs = { long_q:detach(), long_k:detach(), long_v:detach() }
      for _, t in ipairs(inputs) do t:requires_grad() end
      local tape <close> = pf.tape()
      local out = pf.attention.favor(inputs[1], inputs[2], inputs[3], { kernel = each })
      tape:backward((out * out):sum())
      lists[i] = { out:detach() }
      for j, t in ipairs(inputs) do lists[i][j + 1] = t:grad():detach() end
    end
    for j = 1, 4 do
      local off = (lists[1][j] - lists[2][j]):abs():max() / lists[2][j]:abs():max()
      assert.is_true(off:item() < 1e-5, ("result %d is off by %g"):format(j, off:item()))
    end
  end)

  it("takes packed documents, and each is as if it came alone, with its gradients", function()
    local q, k, v = qkv()
    local function run(f)
      local inputs = { q:detach(), k:detach(), v:detach() }
      for _, t in ipairs(inputs) do t:requires_grad() end
      local tape <close> = pf.tape()
      local out = f(table.unpack(inputs))
      tape:backward((out * out):sum())
      return { out:detach(), inputs[1]:grad():detach(), inputs[2]:grad():detach(),
               inputs[3]:grad():detach() }
    end
    local cuts = { 0, 3, 4, L }
    local function alone(a, b, c)
      local parts = {}
      for i = 1, 3 do
        local first, last = cuts[i] + 1, cuts[i + 1]
        parts[i] = pf.attention.favor(a:slice(3, first, last), b:slice(3, first, last),
          c:slice(3, first, last), { kernel = kernel })
      end
      return pf.concat(parts, 3)
    end
    local numbers = pf.tensor({ 5, 5, 5, 2, 9, 9, 9 }, { dtype = "i32" })
    local documents = pf.concat({ numbers:reshape(1, L), numbers:reshape(1, L) }, 1)
    local packed = run(function(a, b, c)
      return pf.attention.favor(a, b, c, { kernel = kernel, documents = documents })
    end)
    local want = run(alone)
    for i = 1, 4 do
      local off = (packed[i] - want[i]):abs():max() / want[i]:abs():max()
      assert.is_true(off:item() < 1e-5, ("result %d is off by %g"):format(i, off:item()))
    end
    local one = { q:slice(1, 1, 1), k:slice(1, 1, 1), v:slice(1, 1, 1) }
    local by_offsets = pf.attention.favor(one[1], one[2], one[3],
      { kernel = kernel, cu_seqlens = pf.tensor(cuts, { dtype = "i32" }) })
    assert.is_true((by_offsets - want[1]:slice(1, 1, 1)):abs():max():item() < 1e-5)
  end)

  it("is refused, with the reason, where keys are not all seen", function()
    local q, k, v = qkv()
    local one = "one over all keys.*stabiliser = \"position\""
    local function favor(options)
      options.kernel = kernel
      return function() return pf.attention.favor(q, k, v, options) end
    end
    local i32 = { dtype = "i32" }
    assert.raises(one, favor { causal = true })
    assert.raises(one, favor { causal = true, prefix = pf.ones(2, i32) })
    assert.raises(one, favor { limits = pf.ones(2, L, i32) })
    assert.raises(one, function()
      pf.attention.state { kernel = kernel, heads = H, value_dim = DV }
    end)
    assert.raises(one, function()
      nn.attention { dim = 8, heads = 2, causal = true,
                     kernel = { name = "softmax", stabiliser = "reference" } }
    end)
    for _, each in ipairs { kernel, kernel_of() } do -- a preset's, too, in full attention
      assert.raises(one, function() pf.attention.weights(q, k, { kernel = each, rows = { 1 } }) end)
      assert.raises(one, function() pf.attention.log_partition(q, k, { kernel = each }) end)
    end
    assert.raises("softmax_hyp has none", function()
      pf.kernel.softmax_hyp { stabiliser = "reference" }
    end)
    assert.raises("position, reference", function() pf.kernel.softmax { stabiliser = "key" } end)
    assert.raises("depends on all keys", function() pf.check.kernel(kernel) end)
    local report = pf.check.kernel(pf.kernel.softmax { preset = "pytorch" })
    assert.is_true(report.causal < 1e-5 and report.full == nil)
    pf.attention.weights(q, k, { kernel = kernel_of(), causal = true, rows = { 1 } })
  end)
end)
