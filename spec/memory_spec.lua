-- memory_spec.lua - recompute: the same numbers as without it, and fewer
-- bytes. Bytes are counted by the engine; no time is measured.
local pf = require "performer"
local commands = require "spec.support.commands"
local models = require "spec.support.models"
local support = require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

local ids, model_of = models.ids, models.new

--- One step of training, walked back: the loss, and a name -> bytes of every gradient.
local function gradients(model, x, target, pass)
  local given = { training = true, step = 16 }
  for key, value in pairs(pass or {}) do given[key] = value end
  for _, p in ipairs(model:parameters()) do p:clear_grad() end
  local loss
  do
    local tape <close> = pf.tape()
    local total = model(x, given):cross_entropy(target)
    tape:backward(total)
    loss = total:tobytes()
  end
  local list, names = model:parameters()
  local grads = {}
  for i, p in ipairs(list) do grads[names[i]] = p:grad() and p:grad():tobytes() or "none" end
  return loss, grads
end

local function assert_same(options, pass)
  local x, target = ids(2, 21, 19, 1), ids(2, 21, 19, 2)
  local loss, grads = gradients(model_of(options), x, target, pass)
  local more = { recompute = true }
  for key, value in pairs(options) do more[key] = value end
  local other, again = gradients(model_of(more), x, target, pass)
  assert.are.equal(loss, other)
  for name, bytes in pairs(grads) do
    assert.are.equal(#bytes, #again[name], name)
    assert.is_true(bytes == again[name], name .. " differs")
  end
  assert.is_true(next(grads) ~= nil)
end

local function keep(B, L, n)
  local rows = {}
  for b = 1, B do
    rows[b] = {}
    for t = 1, L do rows[b][t] = t <= n + b and 1 or 0 end
  end
  return pf.tensor(rows, i32)
end

local function documents(B, L)
  local rows = {}
  for b = 1, B do
    rows[b] = {}
    for t = 1, L do rows[b][t] = (t + b) // 7 end
  end
  return pf.tensor(rows, i32)
end

describe("recompute", function()
  describe("gives the same bits as without, loss and every gradient", function()
    for name, case in pairs {
      plain = { {} },
      dropout = { { dropout = 0.3, conv = 4 } },
      ["a mask"] = { { causal = false, dropout = 0.1 }, { mask = keep(2, 21, 9) } },
      ["packed documents"] = { { dropout = 0.1, conv = 3, qk_norm = true },
                               { documents = documents(2, 21) } },
      ["a prefix"] = { { dropout = 0.1 }, { prefix = pf.tensor({ 5, 9 }, i32) } },
      ["heads that forget"] = { { decay = 1, qk_norm = true, kv_heads = 1 } },
      ["tilted features"] = { { kernel = { name = "softmax_plus", features = 16, seed = 3 } } },
      ["relu features"] = { { kernel = { name = "relu" }, act = "swiglu", norm = "rmsnorm" } },
      ["exact attention"] = { { kernel = "exact", dropout = 0.2, bias = true } },
      ["an n-gram memory"] = { { ngrams = { longest = 3, buckets = 64 }, tied = false,
                                 positions = "learned" } },
    } do
      it("with " .. name, function() assert_same(case[1], case[2]) end)
    end
  end)

  it("does so for any number of threads", function()
    local outs, folder = {}, support.folder()
    finally(function() support.remove(folder) end)
    for _, threads in ipairs { 1, 2, 4 } do
      for _, recompute in ipairs { "true", "false" } do
        local script = ([[
          local pf = require "performer"
          pf.open { threads = %d, seed = 5 }
          local model = pf.nn.performer { vocab = 19, dim = 32, layers = 3, heads = 4,
            causal = true, dropout = 0.2, decay = 1, recompute = %s,
            kernel = { name = "softmax", features = 32, seed = 3 } }
          local x = pf.tensor((function()
            local rows = {}
            for b = 1, 2 do
              rows[b] = {}
              for t = 1, 300 do rows[b][t] = (t * t + 7 * b) %% 19 end
            end
            return rows
          end)(), { dtype = "i32" })
          local tape <close> = pf.tape()
          local loss = model(x, { training = true, step = 3 }):cross_entropy(x)
          tape:backward(loss)
          local sum = { loss:tobytes() }
          for _, p in ipairs(model:parameters()) do sum[#sum + 1] = p:grad():tobytes() end
          local hash = 5381
          for byte in table.concat(sum):gmatch "." do hash = hash * 33 + byte:byte() end
          print(hash)]]):format(threads, recompute)
        local file = support.write(folder .. "/bits.lua", script)
        local code, out, err = support.shell(("%s/bin/performer %s"):format(support.build, file))
        assert.are.equal(0, code, err)
        outs[#outs + 1] = out
      end
    end
    for i = 2, #outs do assert.are.equal(outs[1], outs[i]) end
  end)

  it("holds clearly fewer bytes", function()
    local x, target = ids(2, 256, 19, 1), ids(2, 256, 19, 2)
    local peak = {}
    for _, recompute in ipairs { false, true } do
      local model = model_of { layers = 6, dim = 64, heads = 4, recompute = recompute }
      gradients(model, x, target) -- gradients are there
      collectgarbage()
      collectgarbage()
      local before = pf.memory().live
      pf.reset_peak()
      gradients(model, x, target)
      peak[recompute] = pf.memory().peak - before
    end
    assert.is_true(peak[true] < 0.4 * peak[false],
      ("%d bytes against %d"):format(peak[true], peak[false]))
  end)

  it("looks at queries and keys once", function()
    local x, target = ids(2, 21, 19, 1), ids(2, 21, 19, 2)
    local reports = {}
    for _, recompute in ipairs { false, true } do
      local model = model_of { kernel = { name = "softmax_plus", features = 16, seed = 3 },
                               recompute = recompute }
      gradients(model, x, target, { watch = true })
      reports[#reports + 1] = model:attention_report()
      model:after_step(1)
      local tilts = {}
      for name, t in pf.sorted(model:tensors()) do
        if name:find "tilt$" then tilts[#tilts + 1] = t:tobytes() end
      end
      reports[#reports + 1] = table.concat(tilts)
    end
    assert.is_true(#reports[1] > 0)
    assert.are.equal(pf.json.encode(reports[1]), pf.json.encode(reports[3]))
    assert.are.equal(reports[2], reports[4])
  end)

  it("tells a layer in Lua that it runs again, and runs it with the same pass", function()
    local passes = {}
    local spy = { name = "spy", inner = nn.dropout { p = 0.5 },
      forward = function(self, x, pass)
        local y = self.inner(x, #passes % 2 == 0 and pass or nil)
        passes[#passes + 1] = { pass.again, pass.step, pass.training, y:tobytes() }
        return y
      end }
    local chain = nn.chain { recompute = true, nn.linear { from = 8, to = 8 },
                             nn.dropout { p = 0.5 }, spy }
    do
      local tape <close> = pf.tape()
      tape:backward(chain(pf.randn(3, 8), { training = true, step = 5 }):sum())
    end
    assert.are.equal(2, #passes)
    assert.are.same({ false, true }, { passes[1][1], passes[2][1] })
    table.remove(passes[1], 1)
    table.remove(passes[2], 1)
    assert.are.same(passes[1], passes[2])
  end)

  it("stays with the model, and a checkpoint loads with and without it", function()
    local dir = support.folder()
    finally(function() support.remove(dir) end)
    local with, without = model_of { recompute = true }, model_of { recompute = false }
    assert.is_truthy(pf.checkpoint.save(dir .. "/a", { model = with }))
    assert.is_truthy(pf.checkpoint.save(dir .. "/b", { model = without }))
    local loaded = assert(pf.checkpoint.load(dir .. "/a")).model
    assert.is_true(loaded:options().recompute)
    assert.is_false(assert(pf.checkpoint.load(dir .. "/b")).model:options().recompute)
    assert.is_truthy(pf.checkpoint.load(dir .. "/a", { model = without }))
    assert.is_truthy(pf.checkpoint.load(dir .. "/b", { model = with }))
    assert.is_false(without:options().recompute)
    local x = ids(1, 9, 19)
    assert.bits_equal(loaded(x), without(x))
  end)

  it("streams and evaluates as ever", function()
    local x = ids(1, 12, 19)
    local with, without = model_of { recompute = true }, model_of {}
    assert.bits_equal(without(x), with(x))
    local tape <close> = pf.tape()
    local rows = { without:prefill(x, without:state {}), with:prefill(x, with:state {}) }
    assert.bits_equal(rows[1], rows[2])
    assert.raises("not made on this tape", function() tape:backward(rows[2]:sum()) end)
  end)
end)

describe("pf.recompute", function()
  local w, v

  before_each(function()
    pf.seed(3)
    w, v = pf.randn(6, 6):requires_grad(), pf.randn(6):requires_grad()
  end)

  local function walk(f, x)
    for _, p in ipairs { w, v, x } do p:clear_grad() end
    do
      local tape <close> = pf.tape()
      tape:backward(f(x):sum())
    end
    return { w:grad():tobytes(), v:grad():tobytes(), x:grad():tobytes() }
  end

  it("gives the gradients of the function, its own random numbers among them", function()
    local x = pf.randn(5, 6):requires_grad()
    local function f(h) return (h:matmul(w):tanh():dropout { p = 0.5 } * v):exp() end
    pf.seed(9)
    local plain = walk(f, x)
    pf.seed(9)
    assert.are.same(plain, walk(function(h) return pf.recompute(f, h) end, x))
    pf.seed(9)
    local nested = walk(function(h)
      return pf.recompute(function(g) return pf.recompute(f, g) end, h)
    end, x)
    assert.are.same(plain, nested)
  end)

  it("runs models in it with the same pass, and tells their layers in Lua", function()
    local seen, drop = {}, nn.dropout { p = 0.5 }
    local layer = { name = "spy" }
    function layer.forward(_, x, pass)
      seen[#seen + 1] = { again = pass.again, training = pass.training, y = drop(x):tobytes() }
      return x
    end
    local model = nn.chain { nn.linear { from = 6, to = 6 }, layer }
    local tape <close> = pf.tape()
    tape:backward(pf.recompute(function(x) return model(x) end, pf.randn(5, 6)):sum())
    local first, second = table.unpack(seen)
    assert.are.same({ again = false, training = true, y = first.y }, first)
    assert.are.same({ again = true, training = true, y = first.y }, second)
  end)

  it("takes several tensors, and what it leaves alone has no gradient", function()
    local a, b = pf.randn(4):requires_grad(), pf.randn(4):requires_grad()
    local tape <close> = pf.tape()
    local y = pf.recompute(function(x, _, z) return x * z end, a, b, a)
    tape:backward(y:sum())
    assert.bits_equal(a * 2, a:grad())
    assert.is_nil(b:grad())
  end)

  it("keeps the inputs alone: what the function makes is gone", function()
    local inside
    local x = pf.randn(64, 64):requires_grad()
    local tape <close> = pf.tape()
    local before = pf.memory().live
    local y = pf.recompute(function(h)
      inside = h:exp()
      for _ = 1, 20 do h = h:tanh() end
      return h
    end, x)
    assert.is_true(pf.memory().live - before < 3 * 64 * 64 * 4)
    assert.is_false(inside:alive())
    assert.is_true(y:alive())
    tape:backward(y:sum())
    assert.is_truthy(x:grad())
  end)

  it("refuses a tensor of the tape that is no input, which would lose its gradient", function()
    local x = pf.randn(3):requires_grad()
    local tape <close> = pf.tape()
    local h = x:exp()
    assert.raises("recompute: mul read a tensor that was computed on the open tape", function()
      pf.recompute(function(a) return a * h end, x)
    end)
    assert.is_truthy(pf.recompute(function(a) return a * h:detach() end, x))
    tape:backward(pf.recompute(function(a, b) return a * b end, x, h):sum())
    assert.near_tensor(h + x * h, x:grad())
  end)

  it("hands on the function's errors, at first and in backward", function()
    local x = pf.randn(3):requires_grad()
    local reason = setmetatable({}, { __tostring = function() return "no" end })
    for fail_at = 1, 2 do
      local runs = 0
      local ok, message = pcall(function()
        local tape <close> = pf.tape()
        tape:backward(pf.recompute(function(a)
          runs = runs + 1
          if runs == fail_at then error(reason) end
          return a:exp()
        end, x):sum())
      end)
      assert.is_false(ok)
      assert.are.equal(reason, message)
      assert.is_nil(x:grad())
    end
  end)

  it("says what is wrong with a function or an input", function()
    local x = pf.randn(3):requires_grad()
    local tape <close> = pf.tape()
    assert.raises("function expected", function() pf.recompute(x) end)
    assert.raises("recompute: an input", function() pf.recompute(function() return x end, 3) end)
    assert.raises("must return one tensor, it returned 0 values", function()
      pf.recompute(function() end, x)
    end)
    assert.raises("must return one tensor, it returned 2 values", function()
      pf.recompute(function() return x, x end, x)
    end)
    assert.raises("the function's result", function()
      pf.recompute(function() return 1 end, x)
    end)
    assert.raises("still open", function()
      pf.recompute(function(a) pf.tape() return a:exp() end, x)
    end)
    tape:close()
  end)
end)

describe("train --recompute", function()
  setup(commands.start)
  teardown(commands.stop)

  it("trains to the same losses, and can be had and given up with --resume", function()
    local data = commands.path "p.fasta"
    local more = ("--data %s --dropout 0.1 --eval-every 10 --log-every 1 --threads 2"):format(data)
    local plain = commands.train("plain", more .. " --steps 20")
    local with = commands.train("with", more .. " --steps 20 --recompute")
    assert.are.equal(commands.losses(plain), commands.losses(with))
    local function options_of(run) return pf.inspect(run).config.options end
    assert.is_false(options_of(plain).recompute)
    assert.is_true(options_of(with).recompute)
    local on, off = commands.path "on", commands.path "off"
    commands.good(("train --resume %s --out %s --steps 30 --recompute"):format(plain, on))
    commands.good(("train --resume %s --out %s --steps 30"):format(plain, off))
    assert.are.equal(commands.losses(off), commands.losses(on))
    assert.is_true(options_of(on).recompute)
    assert.is_false(options_of(off).recompute)
  end)

  it("is refused where it would do nothing", function()
    local data = commands.path "p.fasta"
    local run = commands.train("reversible", ("--data %s --steps 3 --reversible"):format(data))
    for options, pattern in pairs {
      [("--data %s --steps 3 --reversible"):format(data)] = "does nothing with %-%-reversible",
      [("--resume %s --steps 6"):format(run)] = "does nothing with %-%-reversible",
    } do
      local code, _, err = commands.performer(("train %s --recompute --out %s"):format(options,
        commands.path "no"))
      assert.are.equal(2, code)
      commands.assert_sentence(err, pattern)
    end
  end)

  it("goes to a script's model as an option", function()
    local script = support.write(commands.path "m.lua", [[
      return function(options)
        print(options.recompute)
        return require "performer".nn.performer { vocab = options.vocab, dim = 16, layers = 1,
          heads = 2, causal = true, recompute = options.recompute }
      end]])
    local _, out = commands.train("scripted", ("--data %s --steps 3 --recompute --model %s")
      :format(commands.path "p.fasta", script))
    assert.are.equal("true", out:match "^%S+")
  end)
end)
