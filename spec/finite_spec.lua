-- pf.check.finite: the first number that is not finite is told with its layer, op and step,
-- wherever it comes from, and looking changes nothing.
local pf = require "performer"
require "spec.support"

local ids = pf.tensor({ { 1, 2, 3, 4, 5, 6, 7, 8 } }, { dtype = "i32" })
local batch = { input = ids, target = ids }

local function performer(more)
  pf.seed(2)
  local options = { vocab = 11, dim = 16, layers = 2, heads = 2, length = 8, causal = true }
  for key, value in pairs(more or {}) do options[key] = value end
  return pf.nn.performer(options)
end

--- Writes `value` to element [row][column] of a matrix.
local function plant(matrix, row, column, value)
  local numbers = matrix:totable()
  numbers[row][column] = value
  matrix:copy_(pf.tensor(numbers))
end

local function check(want, message, ...)
  local fine, text, where = pf.check.finite(...)
  assert.is_false(fine)
  assert.matches(message, text)
  for key, value in pairs(want) do assert.equal(value, where[key], key) end
end

describe("a check for finite numbers", function()
  it("finds nothing where there is nothing, and changes nothing", function()
    for _, more in ipairs { {}, { recompute = true }, { reversible = true }, { dropout = 0.2 },
                            { attention = "exact" }, { kernel = "softmax" } } do
      local model = performer(more)
      local function run()
        local tape <close> = pf.tape()
        local loss = model(batch, { training = true, step = 3 }):cross_entropy(ids)
        tape:backward(loss)
        local bits = { tostring(loss:item()) }
        for _, p in ipairs((model:parameters())) do bits[#bits + 1] = p:grad():tobytes() end
        model:clear_grad()
        return table.concat(bits)
      end
      local before = run()
      assert.is_true(pf.check.finite(model, batch, { step = 3 }))
      assert.has_error(function() pf.check.finite(model, batch, 2) end,
        "check.finite: pass must be a table, got number")
      local watched
      assert.is_true(pf.check.finite(function() watched = run() end))
      assert.is_true(before == watched and before == run())
    end
  end)

  for name, more in pairs { plain = {}, recomputed = { recompute = true },
                            reversible = { reversible = true } } do
    it("finds a NaN in a weight: " .. name, function()
      local model = performer(more)
      plant(model:tensors()["blocks.2.mlp.up.weight"], 3, 5, 0 / 0)
      check({ layer = "blocks.2.mlp.up", op = "linear", phase = "forward", step = 7 },
        "step 7: forward of linear in blocks.2.mlp.up: its input 'weight' %[64, 16%] holds nan "
        .. "at %[3, 5%]", model, batch, { step = 7 })
    end)
  end

  it("finds it through slices, and with a loss of one's own", function()
    local model = performer { length = 64 }
    local row = {}
    for i = 1, 64 do row[i] = i % 11 end
    local long = { input = pf.tensor({ row }, { dtype = "i32" }),
             target = pf.tensor({ row }, { dtype = "i32" }) }
    assert.is_true(pf.check.finite(model, long, { slices = 2, step = 1 }))
    plant(model:tensors()["embedding.weight"], 4, 1, 0 / 0)
    check({ layer = "embedding", op = "embedding", step = 9 }, "'table' %[11, 16%] holds nan",
          model, long, { slices = 2, step = 9 })
    local other = performer()
    check({ layer = "", op = "affine", phase = "forward" },
      "its result 'y' %[%] holds inf, of finite inputs; the first nan behind it: backward of ",
      other, batch, {},
      function(logits, target) return logits:cross_entropy(target) * 1e38 * 1e38 end)
  end)

  it("finds data that a layer written in Lua hands on", function()
    local scale = pf.ones(4)
    local mine = pf.nn.module { scale = scale, forward = function(self, x)
      return x * self.scale + pf.tensor { 0, 0, 0 / 0, 0 }
    end }
    local model = pf.nn.chain { pf.nn.linear { from = 3, to = 4 }, mine,
                                pf.nn.linear { from = 4, to = 2 } }
    local function run()
      local tape <close> = pf.tape()
      tape:backward(model(pf.ones(2, 3)):sum())
    end
    check({ layer = "2", op = "add", phase = "forward" },
          "forward of add in 2: its input 'b' %[4%] holds nan at %[3%]", run)
    -- what it gives without an op is its own
    local raw = pf.nn.module { forward = function() return pf.full({ 2, 4 }, 0 / 0) end }
    model = pf.nn.chain { pf.nn.linear { from = 3, to = 4 }, raw,
                          pf.nn.linear { from = 4, to = 2 } }
    check({ layer = "2", op = "", phase = "forward" },
          "forward in 2: what it gives, 'y' %[2, 4%] holds nan at %[1, 1%]", run)
  end)

  it("finds what a kernel's map of one's own makes", function()
    local kernel = pf.kernel.custom { map = function(x) return (x - 5):log() end }
    local model = performer { kernel = kernel, layers = 1 }
    check({ layer = "blocks.1.attention", op = "log", phase = "forward" },
          "its result 'y' .* holds nan at .*, of finite inputs", model, batch)
  end)

  it("finds a number that grows too large in the backward", function()
    local model = pf.nn.chain { pf.nn.linear { from = 2, to = 2, bias = false },
                                pf.nn.module { forward = function(_, x) return x * 1e30 end },
                                pf.nn.module { forward = function(_, x) return x * 1e-25 end } }
    local function run(seed)
      local tape <close> = pf.tape()
      tape:backward(model(pf.ones(1, 2)), pf.full({ 1, 2 }, seed))
    end
    assert.is_true(pf.check.finite(function() run(1) end))
    check({ layer = "2", op = "affine", phase = "backward", step = 4 },
          "step 4: backward of affine in 2: the gradient of its input 'x' %[1, 2%] holds inf at "
          .. "%[1, 1%], of finite gradients of its results",
          function() run(1e38) end, { step = 4 })
  end)

  it("names the right one of an op's many inputs", function()
    local numbers = {}
    for i = 1, 3 do numbers[i] = pf.randn(1, 1, 8, 4) end
    local k = numbers[2]:totable()
    k[1][1][3][2] = 0 / 0
    local kernel = pf.kernel.softmax { head_dim = 4, features = 8 }
    check({ op = "favor", phase = "forward" }, "its input 'k' %[1, 1, 8, 4%] holds nan at "
      .. "%[1, 1, 3, 2%]", function()
        pf.attention.favor(numbers[1], pf.tensor(k), numbers[3], { kernel = kernel })
      end)
    local q = (numbers[1] * 1e-3):requires_grad()
    check({ op = "favor", phase = "backward" }, "the gradient of its input '[qk]' %[1, 1, 8, 4%]",
      function()
        local tape <close> = pf.tape()
        local out = pf.attention.favor(q, numbers[2], numbers[3] * 1e30, { kernel = kernel })
        tape:backward(out, 1e10)
      end)
  end)

  it("tells the first infinity behind a NaN, and takes -inf alone as meant", function()
    local x = pf.tensor { 1, 2, 0 }
    x:requires_grad()
    local function run(f)
      return function()
        local tape <close> = pf.tape()
        tape:backward(f(x):sum())
      end
    end
    local mask = pf.tensor { 0, 0, -math.huge }
    assert.is_true(pf.check.finite(run(function(y) return (y + mask):softmax(1) * y end)))
    check({ op = "affine" }, "holds nan at %[3%], its input 'x' %[3%] holds %-inf at %[3%]; the "
      .. "first infinity before it: forward of log: its result 'y' %[3%] holds %-inf at %[3%], of "
      .. "finite inputs", run(function(y) return y:log() * 0 end))
  end)

  it("lets other errors pass, and can be asked again after any", function()
    assert.raises("my words", function() pf.check.finite(function() error "my words" end) end)
    assert.is_true(pf.check.finite(function() end))
    assert.raises("watched already", function()
      pf.check.finite(function() pf.check.finite(function() end) end)
    end)
    assert.is_true(pf.check.finite(function() end))
    assert.raises("a function, or a module and a batch, are needed; got number and nil",
      function() pf.check.finite(3) end)
    assert.raises("unknown option 'stp'", function() pf.check.finite(print, { stp = 1 }) end)
  end)
end)
