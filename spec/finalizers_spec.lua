-- finalizers_spec.lua - finalizers of a script's own, which the collector runs in the middle of any
-- call that allocates: what they close there is not used, and the call says so. And layers that
-- close what works on them.
local pf = require "performer"
local support = require "spec.support"

local model, options
local IDS = { 1, 2, 3 }

--- Runs f(thing), whose first allocation runs a finalizer that closes the thing: what f raised.
local function close_within(thing, f)
  local closed, mode = false, collectgarbage "incremental"
  collectgarbage("incremental", 200, 1000, 40) -- a step is a whole collection
  collectgarbage "stop"
  setmetatable({}, { __gc = function() closed = true thing:close() end })
  collectgarbage "restart"
  local ok, why = pcall(f, thing)
  local in_time = closed
  collectgarbage("incremental", 200, 100, 13)
  collectgarbage(mode)
  collectgarbage()
  assert.is_true(in_time)
  assert.is_false(ok)
  assert.is_truthy(tostring(why):find "closed", why)
end

describe("what a finalizer closes in the middle of a call", function()
  setup(function()
    model = pf.nn.performer { vocab = 11, dim = 16, layers = 1, heads = 2, length = 32,
                              causal = true, kernel = { features = 8 } }
    options = { temperature = 0, top_k = 0, top_p = 1, seed = 1 }
  end)

  local function stream()
    local s = model:stream { batch = 1 }
    s:feed(IDS)
    return s
  end

  local function serving()
    local core = require "performer.core"
    local s = core.open_serving(model, {})
    s:join { prompt = IDS, tokens = 4, temperature = 0 }
    s:step()
    return s
  end

  for name, f in pf.sorted {
    fork = function(s) return s:fork() end,
    logits = function(s) return s:logits() end,
    sample = function(s) return s:sample(options) end,
    allow = function(s) return s:allow { 1, 2 } end,
    reorder = function(s) return s:reorder { 1 } end,
  } do
    it("is no stream any more for " .. name, function() close_within(stream(), f) end)
  end

  for name, f in pf.sorted {
    fork = function(s) return s:fork(1) end,
    step = function(s) return s:step() end,
    logits = function(s) return s:logits(1) end,
    allow = function(s) return s:allow(1, { 1, 2 }) end,
  } do
    it("is no serving any more for " .. name, function() close_within(serving(), f) end)
  end

  it("is no state any more", function()
    close_within(model:state { batch = 1 }, function(s) return s:fork() end)
    close_within(model:state { batch = 1 }, function(s) return s:reorder { 1 } end)
  end)

  it("is no data set any more", function()
    local path = os.tmpname()
    support.write(path, ("some words to read "):rep(100))
    for _, f in ipairs {
      function(data) return data:batch { index = 1, size = 1 } end,
      function(data) return data:document(1) end,
      function(data) return data:counts() end,
    } do
      close_within(require "performer.core".open_data { path = path, format = "text", length = 8 },
        f)
    end
    os.remove(path)
  end)
end)

describe("an optimizer", function()
  it("stays while a layer's after_step wants it closed", function()
    local opt, failed
    local layer = pf.nn.chain { { w = pf.ones(3):requires_grad(),
      forward = function(self, x) return x * self.w end,
      after_step = function() failed = not pcall(opt.close, opt) or tostring(opt) end } }
    opt = pf.optim.adamw(layer, { lr = 0.1 })
    for step = 1, 3 do
      local tape <close> = pf.tape()
      tape:backward(layer(pf.ones(2, 3)):sum())
      opt:step()
      assert.are.equal(step, opt:steps())
    end
    assert.is_truthy(failed)
  end)
end)
