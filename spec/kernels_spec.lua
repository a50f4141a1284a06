-- kernels_spec.lua - kernels as models use them: the tilt of FAVOR++, which is fitted and moves
-- with training; kernels written in Lua; training by a kernel's name.
local pf = require "performer"
local array = require "spec.support.array"
local support = require "spec.support"

local nn = pf.nn
local maps = pf.kernels().maps

-- ---- FAVOR++ ---------------------------------------------------------------------------

describe("the tilt of softmax_plus", function()
  local d, draws = 16, 4000

  --- Ratios of the estimate to exp(x.y) over `draws` heads of their own projections: mean, its
  --- standard error, and the mean squared error.
  local function ratios(kernel, x, y)
    local product = 0
    for i = 1, d do product = product + x[i] * y[i] end
    local function rows(of)
      local one = pf.tensor(of):reshape(1, 1, 1, d)
      return pf.zeros(1, draws, 1, d) + one
    end
    local W = kernel:projection(d, draws)
    local options = { map = kernel:name(), scale = 1, tilt = kernel:settings(d).tilt }
    local estimate = (pf.features(rows(x), W, options) * pf.features(rows(y), W, options)):sum(-1)
    local ratio = array.of(estimate * math.exp(-product))
    local sum, square = 0, 0
    for i = 1, draws do
      sum, square = sum + ratio[i], square + (ratio[i] - 1) ^ 2
    end
    local mean = sum / draws
    return mean, math.sqrt(square / draws / draws), square / draws
  end

  --- x = y of |x + y|^2 = s.
  local function pair(s, sign)
    local x = {}
    for i = 1, d do x[i] = sign * math.sqrt(s / 4 / d) * (i % 2 == 0 and 1 or -1) end
    return x, x
  end

  it("leaves the estimate without bias, for +z and -z", function()
    for _, tilt in ipairs { -0.3, -0.05, 0.05 } do
      local kernel = pf.kernel.softmax_plus { head_dim = d, features = d, scale = 1, seed = 4,
                                              tilt = tilt }
      for sign = -1, 1, 2 do
        local mean, error_of_mean = ratios(kernel, pair(1, sign))
        assert.is_true(math.abs(mean - 1) < 4 * error_of_mean,
          ("tilt %g: %.4f +- %.4f"):format(tilt, mean, error_of_mean))
      end
    end
  end)

  it("errs less than SM+ with as many features, from |x + y|^2 = 4 on", function()
    for _, s in ipairs { 4, 8, 12 } do
      local x, y = pair(s, 1)
      local options = { head_dim = d, features = d, scale = 1, seed = 4 }
      local q = pf.tensor(x):reshape(1, 1, 1, d)
      local plus = pf.kernel.softmax_plus(options):fit(q, q)
      local _, _, own = ratios(plus, x, y)
      local _, _, plain = ratios(pf.kernel.softmax(options), x, y)
      print(("softmax_plus, |x+y|^2 = %2d, d = m = %d: tilt %.4f, relative MSE %.3g; SM+ %.3g, " ..
        "%.1f times as much"):format(s, d, plus:settings(d).tilt, own, plain, plain / own))
      assert.is_true(own < plain)
    end
  end)

  it("is fitted by the closed formula", function()
    local q, k = pf.randn(2, 4, 50, d), pf.randn(2, 2, 30, d)
    local kernel = pf.kernel.softmax_plus { head_dim = d, features = 32, seed = 4 }
    local fitted = kernel:fit(q, k)
    local a, b, sum = array.of(q), array.of(k), 0
    for n = 0, 7 do -- item and query head
      local key_head = n // 4 * 2 + n % 4 // 2
      for i = 0, 49 do
        for j = 0, 29 do
          for c = 1, d do
            sum = sum + (a[(n * 50 + i) * d + c] + b[(key_head * 30 + j) * d + c]) ^ 2
          end
        end
      end
    end
    local s = sum / (8 * 50 * 30) / math.sqrt(d)
    local rho = (math.sqrt((2 * s + d) ^ 2 + 8 * d * s) - 2 * s - d) / (4 * s)
    assert.near((1 - 1 / rho) / 8, fitted:settings(d).tilt, 1e-5)
    assert.equal(0, kernel:settings(d).tilt)
    assert.bits_equal(kernel:projection(d, 2), fitted:projection(d, 2))
    assert.raises("softmax_plus", function() pf.kernel.softmax {}:fit(q, k) end)
    assert.raises("needed", function() kernel:fit(q) end)
  end)

  it("of a layer moves with training, is saved, and lets streams equal the whole", function()
    local function model()
      pf.seed(3)
      return nn.performer { vocab = 11, dim = 16, layers = 1, heads = 2, length = 32, causal = true,
        kernel = { name = "softmax_plus", features = 16 } }
    end
    local function tilts(of)
      for name, t in pf.sorted(of:tensors()) do
        if name:match "tilt$" then return t end
      end
    end
    local ids = pf.tensor({ { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 } },
      { dtype = "i32" })
    local function trained(watched)
      local own = model()
      local optimizer = pf.optim.adamw(own, { lr = 1e-2 })
      assert.equal(0, tilts(own):abs():max():item())
      for step = 1, 40 do
        local tape <close> = pf.tape()
        local pass = { training = true, step = step, watch = step % watched == 0 }
        tape:backward(own(ids, pass):cross_entropy(ids))
        optimizer:step {}
      end
      return own
    end
    local own = trained(41)
    local moved = tilts(own):detach()
    for watched = 1, 3 do -- as a log asks
      local same = trained(watched)
      assert.bits_equal(moved, tilts(same):detach())
      assert.bits_equal(own(ids), same(ids))
    end
    assert.is_true(moved:max():item() < 0)
    for step = 41, 80 do own(ids, { training = false, step = step }) end -- evaluation
    own:after_step(80)
    assert.bits_equal(moved, tilts(own):detach())
    local whole = own(ids)
    local state = own:state { batch = 1 }
    local parts = { own:prefill(ids:slice(2, 1, 12), state) }
    for t = 13, 20 do
      parts[#parts + 1] = own:step(ids:slice(2, t, t):reshape(1), state):reshape(1, 1, 11)
    end
    local gap = (pf.concat(parts, 2) - whole):abs():max():item()
    assert.is_true(gap < 1e-4, gap)
    local folder = os.tmpname() .. ".d"
    assert(pf.checkpoint.save(folder, { model = own, step = 1 }))
    local loaded = assert(pf.checkpoint.load(folder)).model
    os.execute("rm -rf '" .. folder .. "'")
    assert.bits_equal(moved, tilts(loaded):detach())
    assert.bits_equal(whole, loaded(ids))
  end)
end)

-- ---- kernels written in Lua ------------------------------------------------------------

describe("a custom kernel in a model", function()
  local function learned()
    local W = pf.randn(1, 2, 8, 12) * 0.5
    return pf.kernel.custom {
      parameters = { W = W },
      map = function(x) return x:matmul(W):elu() + 1.01 end,
    }
  end
  local function layer(more)
    local options = { name = "learned", dim = 16, heads = 2, causal = true, kernel = learned() }
    for key, value in pairs(more or {}) do options[key] = value end
    return nn.attention(options)
  end

  it("trains what its map learns with, streams, and is loaded by its script", function()
    pf.seed(5)
    local model = nn.chain { nn.embedding { vocab = 7, dim = 16 },
      nn.residual { nn.layernorm(16), layer { rotary = true, decay = 1, qk_norm = true } },
      nn.linear { from = 16, to = 7 } }
    local W
    for name, t in pairs(model:tensors()) do
      if name:match "parameters%.W$" then W = t end
    end
    local before = W and W:detach()
    local optimizer = pf.optim.adamw(model, { lr = 1e-2 })
    local ids, losses = pf.tensor({ { 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3 } }, { dtype = "i32" }), {}
    local target = pf.tensor({ { 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1 } }, { dtype = "i32" })
    for step = 1, 30 do
      local tape <close> = pf.tape()
      local loss = model(ids, { training = true, step = step }):cross_entropy(target)
      losses[step] = loss:item()
      tape:backward(loss)
      optimizer:step {}
    end
    assert.is_true(losses[30] < 0.5 * losses[1])
    assert.is_truthy(W)
    assert.is_true((W - before):abs():max():item() > 1e-3)
    local whole = model(ids)
    local state, parts = model:state { batch = 1 }, {}
    for t = 1, 12 do
      parts[t] = model:step(ids:slice(2, t, t):reshape(1), state):reshape(1, 1, 7)
    end
    assert.is_true((pf.concat(parts, 2) - whole):abs():max():item() < 1e-4)

    local folder = os.tmpname() .. ".d"
    assert(pf.checkpoint.save(folder, { model = model, step = 1 }))
    nn.define("learned", function() return layer { rotary = true, decay = 1, qk_norm = true } end)
    local loaded = assert(pf.checkpoint.load(folder)).model
    os.execute("rm -rf '" .. folder .. "'")
    assert.bits_equal(whole, loaded(ids))
  end)

  it("has right gradients, and answers misuse", function()
    local own = layer()
    pf.check.gradient(function(x) return own(x):square():sum() end, pf.randn(1, 6, 16))
    local block = nn.block { dim = 16, heads = 2, kernel = learned() }
    pf.check.gradient(function(x) return block(x):square():sum() end, pf.randn(1, 6, 16))
    assert.raises("multiple of heads", function() layer { heads = 3 } end)
    assert.raises("unknown option", function() layer { hidden = 3 } end)
  end)

  it("may learn with lists, tables and modules, in an order of their names", function()
    local W, mlp, names = { pf.randn(4, 4), pf.randn(4, 4) }, nn.linear { from = 4, to = 4 }, {}
    local own = nn.attention { dim = 8, heads = 2, kernel = pf.kernel.custom {
      name = "tables", parameters = { z = pf.ones(4), w = W, mlp = mlp, a = { b = pf.ones(4) } },
      map = function(x) return mlp(x:matmul(W[1]):matmul(W[2])):elu() + 1 end,
    } }
    local _, walked = own:parameters()
    for _, name in ipairs(walked) do names[#names + 1] = name:match "^parameters%.(.*)" end
    assert.same({ "a.b", "mlp.bias", "mlp.weight", "w.1", "w.2", "z" }, names)
    pf.check.gradient(function(x) return own(x):square():sum() end, pf.randn(1, 5, 8))
    assert.raises("projection is not trained", function()
      pf.kernel.custom { map = print, parameters = { inner = nn.attention { dim = 8, heads = 2 } } }
    end)
    assert.raises("must be a tensor, got number", function()
      pf.kernel.custom { map = print, parameters = { a = { 3 } } }
    end)
  end)

  it("is found by its name as long as it is alive, and no other's garbage is", function()
    local function model_of(name)
      return nn.performer { vocab = 7, dim = 16, layers = 1, heads = 2, causal = true,
        kernel = pf.kernel.custom { name = name, map = function(x) return x:elu() + 1 end } }
    end
    local folder = os.tmpname() .. ".d"
    do
      local model = model_of "fleeting"
      assert(pf.checkpoint.save(folder, { model = model, step = 1 }))
      for _ = 1, 3 do
        model = model_of "fleeting" -- the one before is garbage, collected or not
        assert.equal(model:count(), nn.build(model:tree()):count())
        assert(pf.checkpoint.load(folder))
      end
    end
    collectgarbage()
    collectgarbage()
    local loaded, message, code = pf.checkpoint.load(folder)
    os.execute("rm -rf '" .. folder .. "'")
    assert.is_nil(loaded)
    assert.is_truthy(message:find("there is no 'fleeting'", 1, true), message)
    assert.equal("PF_ENOTFOUND", code)
  end)

  it("is not found by the name that those without one have, only loaded into", function()
    local function model_of(map)
      return nn.attention { dim = 8, heads = 2, kernel = pf.kernel.custom { map = map } }
    end
    local folder, y = os.tmpname() .. ".d"
    do
      local saved = model_of(function(x) return x:elu() + 1 end)
      assert(pf.checkpoint.save(folder, { model = saved, step = 1 }))
      y = saved(pf.ones(1, 5, 8))
    end
    collectgarbage()
    collectgarbage()
    local other = model_of(function(q) return q:square() + 1 end)
    local found, message, code = pf.checkpoint.load(folder)
    assert.is_nil(found)
    assert.is_truthy(message:find("name the kernel", 1, true), message)
    assert.equal("PF_EFORMAT", code)
    assert.raises("name the kernel", function() nn.build(other:tree()) end)
    local into = model_of(function(q) return q:elu() + 1 end)
    assert(pf.checkpoint.load(folder, { model = into, optimizer = false }))
    assert.bits_equal(y, into(pf.ones(1, 5, 8)))
    os.execute("rm -rf '" .. folder .. "'")
  end)

  it("can't close or move what is calling its map", function()
    local act
    local kernel = pf.kernel.custom { name = "meddler",
      map = function(x) return act and act() or x:elu() + 1 end }
    local function meddle(thing, method, run)
      act = function() thing[method](thing, pf.ones(1, 4)) end
      local ok, message = pcall(run)
      act = nil
      return ok, message
    end
    local q = pf.randn(1, 2, 3, 4)
    local state = pf.attention.state { kernel = kernel, heads = 2, head_dim = 4 }
    state:prefill(q, q, q)
    local items = pf.attention.items { kernel = kernel, keys = pf.randn(5, 4) }
    local model = nn.performer { vocab = 7, dim = 8, layers = 2, heads = 2, causal = true,
                                 kernel = kernel }
    local stream = model:stream()
    stream:feed { 1, 2 }
    local calls = { { state, function() return state:prefill(q, q, q) end },
                    { stream, function() return stream:feed { 3 } end },
                    { items, function() return items:add(pf.randn(2, 4)) end } }
    for _, call in ipairs(calls) do
      local thing, run = call[1], call[2]
      assert.is_true(meddle(thing, "close", run)) -- which has nothing to close
      local ok, message = meddle(thing, "bytes", run)
      assert.is_false(ok)
      assert.is_truthy(tostring(message):find("is at work", 1, true), message)
      run() -- all of it goes on
    end
  end)

  it("goes when nothing else holds it, also if its map knows it", function()
    local seen = setmetatable({}, { __mode = "v" })
    local function drop_dead() -- nn.build looks for what is dead, and then for what that held
      for _ = 1, 2 do nn.build(nn.linear { from = 2, to = 2 }:tree()) end
    end
    local function make(name)
      local kernel, w
      w = pf.ones(4)
      kernel = pf.kernel.custom { name = name, map = function(x)
        assert(kernel ~= nil)
        return x:elu() + w:sum()
      end }
      return kernel, w
    end
    do
      local held = make()
      seen.unnamed, seen.weight = make()
      seen.named = make "own"
      seen.model = nn.attention { dim = 8, heads = 2, kernel = seen.unnamed }
      seen.model(pf.ones(1, 5, 8))
      drop_dead()
      assert.is_not_nil(held:features(pf.ones(1, 2, 3, 4), "key"))
    end
    drop_dead()
    assert.is_nil(next(seen))
  end)

  it("stays while a model has it, with all that its map knows", function()
    local model, y
    do
      local kernel, w
      w = pf.full({ 4 }, 0.25)
      kernel = pf.kernel.custom { map = function(x) return kernel and x:elu() + w:sum() end }
      model = nn.attention { dim = 8, heads = 2, kernel = kernel }
      y = model(pf.ones(1, 5, 8))
    end
    for _ = 1, 3 do
      nn.build(nn.linear { from = 2, to = 2 }:tree())
      collectgarbage()
    end
    assert.bits_equal(y, model(pf.ones(1, 5, 8)))
  end)

  it("is none that auto could choose", function()
    assert.raises("'auto' takes exact attention or features that estimate it", function()
      layer { attention = "auto", length = 64 }
    end)
  end)

  it("says nothing of later tokens, and knows documents and masks", function()
    local own = layer { rotary = true }
    local x = pf.randn(1, 10, 16)
    local documents = pf.tensor({ { 0, 0, 0, 0, 1, 1, 1, 1, 1, 1 } }, { dtype = "i32" })
    local whole = own(x, { documents = documents })
    local part = own(x:slice(2, 5, 10))
    assert.is_true((whole:slice(2, 5, 10) - part):abs():max():item() < 1e-5)
  end)
end)

describe("an attention that is asked for", function()
  it("is that one, whatever kind a kernel is named after", function()
    local x = pf.randn(1, 6, 8)
    local function out(attention, kernel)
      pf.seed(3)
      return nn.attention { dim = 8, heads = 2, causal = true, attention = attention,
                            kernel = kernel }(x)
    end
    assert.bits_equal(out("identity"), out("identity", { name = "exact" }))
    assert.bits_equal(out("exact"), out("kernel", { name = "exact" }))
    assert.bits_equal(out("exact"), out(nil, { name = "exact" }))
    -- What is computed is what the options say.
    local layer = pf.nn.attention { dim = 8, heads = 2, kernel = "exact" }
    assert.equal("exact", layer:options().attention)
    local model = pf.nn.performer { vocab = 9, dim = 8, heads = 2, layers = 1, kernel = "exact" }
    assert.equal("exact", model:options().attention)
  end)

  it("takes what its row says", function()
    for _, kind in ipairs(pf.kinds()) do
      local takes = {}
      for _, name in ipairs(kind.takes) do takes[name] = true end
      for _, name in ipairs { "mask", "documents", "decay", "limits", "prefix", "cu_seqlens" } do
        local x = pf.randn(1, 1, 2, 4)
        local ok, message = pcall(pf.attention[kind.name], x, x, x, { [name] = "no tensor" })
        assert.is_false(ok)
        assert.equal(not takes[name], tostring(message):find("unknown option", 1, true) ~= nil,
          tostring(message))
      end
    end
  end)

  it("refuses an option of a kernel that is none, and rows that nobody gave", function()
    local function refused(words, options)
      for _, layer in ipairs { "attention", "block", "performer" } do
        local o = { dim = 8, heads = 2, vocab = layer == "performer" and 9 or nil }
        for key, value in pairs(options) do o[key] = value end
        local ok, message = pcall(nn[layer], o)
        assert.is_false(ok)
        assert.is_truthy(tostring(message):find(words, 1, true), tostring(message))
      end
    end
    refused("the kernel option 'scale' has no effect", { kernel = { name = "exact", scale = 2 } })
    refused("needs the projection", { kernel = { rows = "given", features = 8 } })
    local given = pf.kernel.softmax { projection = pf.randn(2, 8, 4) }
    local layer = nn.attention { dim = 8, heads = 2, kernel = given }
    local dir = support.folder()
    assert(pf.checkpoint.save(dir .. "/a", { model = layer }))
    local loaded = assert(pf.checkpoint.model(dir .. "/a")) -- which brings the rows
    assert.bits_equal(layer:tensors().projection, loaded:tensors().projection)
    support.remove(dir)
  end)
end)

-- ---- training by name ------------------------------------------------------------------

describe("performer train --attention", function()
  local data, folder = os.tmpname(), os.tmpname() .. ".d"

  setup(function()
    local file = assert(io.open(data, "w"))
    for i = 1, 60 do file:write(("line %d of a small text, and a few words more\n"):format(i)) end
    file:close()
  end)

  teardown(function()
    os.remove(data)
    os.execute("rm -rf '" .. folder .. "'")
  end)

  it("takes a kernel's options", function()
    local code, _, err = support.shell(("%s/bin/performer train --data %s --out %s/options " ..
      "--attention relu --preset pytorch --scale 0.5 --eps 0.01 --features 0 --dim 16 " ..
      "--layers 1 --heads 2 --length 32 --batch 2 --steps 1"):format(support.build, data, folder))
    assert.equal(0, code, err)
    local model = assert(pf.checkpoint.load(folder .. "/options")).model
    local kernel
    local function find(node)
      kernel = kernel or node.type == "attention" and node.options.kernel
      for _, child in ipairs(node.children or {}) do find(child) end
    end
    find(model:tree())
    for name, t in pairs(model:tensors()) do
      if name:match "projection$" then
        assert.same({ 2, math.floor(8 * math.log(8)), 8 }, { table.unpack(t:shape()) })
      end
    end
    kernel = kernel or model:options().kernel
    assert.same({ "pytorch", 0.5, 0.01 }, { kernel.preset, kernel.scale, kernel.eps })
  end)

  for _, map in ipairs(maps) do
    it("takes " .. map.name, function()
      local code, out, err = support.shell(("%s/bin/performer train --data %s --out %s/%s " ..
        "--attention %s --dim 16 --layers 1 --heads 2 --features 8 --length 32 --batch 2 " ..
        "--steps 2 --threads 1 --json"):format(support.build, data, folder, map.name, map.name))
      assert.equal(0, code, err)
      local loss = tonumber(out:match '"train_loss": ?([%d.]+)')
      assert.is_true(loss ~= nil and loss > 0 and loss < 20, out)
    end)
  end
end)
