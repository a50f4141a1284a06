-- heads_spec.lua - heads on a trunk: pooling by mask, classifiers and regressors of sequences and
-- of tokens, several tasks with their losses, types of tokens, and blocks of any two layers.
local array = require "spec.support.array"
local child = require "spec.support.child"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local B, L, D, V = 3, 6, 8, 11
local i32 = { dtype = "i32" }

local function rows(seed, ...) return array.tensor(array.random(seed):normals { ... }) end
local function ids(seed) return array.tensor(array.random(seed):whole({ B, L }, 0, V - 1)) end

local MASK = { { 1, 1, 0, 1, 0, 0 }, { 0, 1, 1, 1, 1, 1 }, { 0, 0, 0, 0, 0, 0 } }
local mask = pf.tensor(MASK, i32)

local function trunk(more)
  pf.seed(2)
  local o = { vocab = V, dim = D, layers = 1, heads = 2, kernel = { features = 8 } }
  for key, value in pairs(more or {}) do o[key] = value end
  return nn.performer(o)
end

describe("a pool", function()
  --- What it is to give, from plain numbers.
  local function pooled(of, x, keep, weight)
    local list, out = x:totable(), {}
    for b = 1, B do
      local there, w, sum = {}, {}, 0
      for t = 1, L do if not keep or keep[b][t] == 1 then there[#there + 1] = t end end
      if of == "first" then there = { there[1] } end
      if of == "last" then there = { there[#there] } end
      for _, t in ipairs(there) do
        local score = 0
        for i = 1, D do score = score + (weight and weight[i] or 0) * list[b][t][i] / D ^ 0.5 end
        w[t] = math.exp(score)
        sum = sum + w[t]
      end
      out[b] = {}
      for i = 1, D do
        out[b][i] = 0
        for _, t in ipairs(there) do out[b][i] = out[b][i] + w[t] / sum * list[b][t][i] end
      end
    end
    return pf.tensor(out)
  end

  for _, of in ipairs { "mean", "first", "last", "attention" } do
    it("by " .. of .. " is as its formula says, of what the mask keeps", function()
      local m, x = nn.pool { of = of, dim = D }, rows(1, B, L, D)
      local weight
      if of == "attention" then
        m:tensors().query:copy_(rows(2, D))
        weight = m:tensors().query:totable()
      end
      assert.is_true(support.distance(m(x), pooled(of, x, nil, weight)) < 1e-6)
      local y = m(x, { mask = mask })
      assert.is_true(support.distance(y, pooled(of, x, MASK, weight)) < 1e-6)
      assert.equal(0, y:slice(1, 3, 3):abs():max():item()) -- nothing is there
      local report = pf.check.gradient(function(a)
        return m(a, { mask = mask }):square():sum()
      end, { x })
      assert.is_true(report.worst < 1e-3)
      -- To the bit: what is hidden, what stands beside it, and padding do not count.
      local keep = pf.tensor(mask:reshape(B, L, 1):totable())
      local other = x * keep + rows(3, B, L, D) * (-keep + 1)
      assert.equal(y:tobytes(), m(other, { mask = mask }):tobytes())
      local one = m(x:slice(1, 2, 2), { mask = mask:slice(1, 2, 2) })
      assert.equal(y:slice(1, 2, 2):tobytes(), one:tobytes())
      local longer = pf.concat({ x, rows(4, B, 3, D) }, 2)
      local padded = pf.concat({ mask, pf.zeros(B, 3, i32) }, 2)
      assert.is_true(support.distance(m(longer, { mask = padded }), y) < 1e-6)
    end)
  end

  it("begins as the mean by attention, whose query learns", function()
    local m, x = nn.pool { of = "attention", dim = D }, rows(1, B, L, D)
    assert.equal(nn.pool()(x):tobytes(), m(x):tobytes())
    local report = pf.check.gradient(function()
      return m(x, { mask = mask, training = false }):square():sum()
    end, (m:parameters()))
    assert.equal(1, #report.inputs)
  end)

  it("says what it can't do", function()
    assert.error_matches(function() nn.pool { of = "attention" } end, "the option dim")
    assert.error_matches(function() nn.pool()(rows(1, B, D)) end, "pool: x is %[3, 8%]")
    assert.error_matches(function() nn.pool { dim = 5 }(rows(1, B, L, D)) end, "as the option dim")
    assert.error_matches(function() nn.pool():state() end, "one vector of a whole sequence")
    assert.error_matches(function() nn.pool()(rows(1, B, L, D), { documents = mask }) end,
      "give every one a row")
  end)
end)

describe("a classifier", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  it("of a sequence is a linear layer of its pooled states", function()
    local lm = trunk()
    local m = nn.classifier { trunk = lm, classes = 4, pool = "last", hidden = 5, act = "relu" }
    local x, t = ids(1), m:tensors()
    local h = nn.pool { of = "last" }(lm:hidden(x, { mask = mask }), { mask = mask })
    h = h:linear(t["hidden.weight"], t["hidden.bias"]):relu()
    local y = h:linear(t["output.weight"], t["output.bias"])
    assert.equal(y:tobytes(), m(x, { mask = mask }):tobytes())
    assert.are.same({ B, 4 }, { table.unpack(y:shape()) })
    assert(pf.checkpoint.save(folder .. "/run", { model = m }))
    local loaded = assert(pf.checkpoint.model(folder .. "/run"))
    assert.equal(y:tobytes(), loaded(x, { mask = mask }):tobytes())
  end)

  it("learns which symbol a row has more of, whatever its padding", function()
    local m = nn.classifier { trunk = trunk { dim = 16, vocab = 3 }, classes = 2 }
    local from = array.random(3)
    local function batch(n)
      local input, keep, target = {}, {}, {}
      for b = 1, n do
        local length, count = 5 + 2 * (from:whole({ 1 }, 0, 4)[1]), 0
        local list = from:whole({ 13 }, 0, 1)
        input[b], keep[b] = {}, {}
        for i = 1, 13 do
          input[b][i], keep[b][i] = i <= length and list[i] or 2, i <= length and 1 or 0
          if i <= length then count = count + list[i] end
        end
        target[b] = count * 2 > length and 1 or 0
      end
      return { input = pf.tensor(input, i32), mask = pf.tensor(keep, i32),
               target = pf.tensor(target, i32) }
    end
    local opt = pf.optim.adamw(m, { lr = 5e-3 })
    for _ = 1, 60 do
      local rows_of = batch(32)
      local tape <close> = pf.tape()
      tape:backward(m:loss(rows_of))
      opt:step { clip = 1 }
    end
    local test = batch(100)
    local best, right = m(test):argmax(-1):totable(), 0
    for b, id in ipairs(test.target:totable()) do
      if best[b] - 1 == id then right = right + 1 end
    end
    assert.is_true(right >= 95, right .. " of 100")
  end)

  it("of tokens streams, and trains in slices with the gradients of the whole", function()
    local lm = trunk { causal = true }
    local m = nn.classifier { trunk = lm, classes = 4, of = "token" }
    assert.is_true(pf.check.streaming(m, ids(1)) < 1e-5)
    local x = array.tensor(array.random(5):whole({ 2, 48 }, 0, 3))
    local function gradients(slices)
      m:clear_grad()
      if slices then
        m:backward_sliced({ input = x, target = x }, { slices = slices })
      else
        local tape <close> = pf.tape()
        tape:backward(m:loss { input = x, target = x })
      end
      return m:tensors()["output.weight"]:grad():detach(),
        m:tensors()["1.embedding.weight"]:grad():detach()
    end
    local head, table_of = gradients()
    local sliced_head, sliced_table = gradients(3)
    assert.is_true(support.distance(sliced_head, head) < 1e-5)
    assert.is_true(support.distance(sliced_table, table_of) < 1e-5)
  end)

  it("stands on any layer, those in Lua with their width said", function()
    local own = nn.module { table = nn.embedding { vocab = V, dim = 5 },
      forward = function(self, x) return self.table(x):tanh() end }
    local m = nn.classifier { trunk = own, classes = 2, dim = 5 }
    assert.are.same({ B, 2 }, { table.unpack(m(ids(1)):shape()) })
    assert.error_matches(function() nn.classifier { trunk = own, classes = 2 } end,
      "give the option dim")
    assert.error_matches(function() nn.classifier { trunk = own, classes = 2, dim = 6 }(ids(1)) end,
      "the trunk gives %[3, 6, 5%], must be %(B, L, D%) with D = 6")
    assert.error_matches(function() nn.classifier { trunk = trunk(), classes = 2, dim = 6 } end,
      "dim is 6, but the trunk gives 8")
    assert.error_matches(function() nn.classifier { classes = 2 } end, "takes 1 children, 0 given")
    assert.error_matches(function()
      nn.classifier { trunk = trunk { causal = true }, classes = 2 }:stream()
    end, "one vector of a whole sequence, so it can't stream")
  end)
end)

describe("a loss", function()
  it("of a regressor is the mean square, or Huber's", function()
    local m = nn.regressor { trunk = trunk(), of = "token" }
    local x, target = ids(1), rows(2, B, L) * 3
    local y = m(x):reshape(B, L)
    assert.equal(y:mean_square(target):item(), (m:loss { input = x, target = target }):item())
    local sum, list, wanted = 0, y:reshape(B * L):totable(), target:reshape(B * L):totable()
    for i = 1, B * L do
      local d = math.abs(list[i] - wanted[i])
      sum = sum + (d <= 1.5 and d * d / 2 or 1.5 * (d - 0.75))
    end
    assert.near(sum / B / L, m:loss({ input = x, target = target }, { huber = 1.5 }):item(), 1e-5)
    local report = pf.check.gradient(function()
      return m:loss({ input = x, target = target }, { huber = 1.5, training = false })
    end, (m:parameters()), { raise = false })
    assert.is_true(report.worst < 1e-2)
    local two = nn.regressor { trunk = trunk(), values = 2 }
    assert.are.same({ B, 2 }, { table.unpack(two(x):shape()) })
    assert.is_number((two:loss { input = x, target = rows(3, B, 2) }):item())
  end)

  it("of estimates is over the positions that the mask keeps", function()
    local x, there = ids(1), mask:totable()
    local other, kept = x:totable(), 0
    for b = 1, B do
      for t = 1, L do
        kept = kept + there[b][t]
        if there[b][t] == 0 then other[b][t] = (other[b][t] + 1) % V end
      end
    end
    for _, values in ipairs { 1, 2 } do
      local m = nn.regressor { trunk = trunk(), of = "token", values = values }
      local target = rows(2, B, L, values)
      local y, wanted = m { input = x, mask = mask }:totable(), target:totable()
      local sum = 0
      for b = 1, B do
        for t = 1, L do
          for v = 1, values do sum = sum + there[b][t] * (y[b][t][v] - wanted[b][t][v]) ^ 2 end
        end
      end
      local batch = { input = x, target = target, mask = mask }
      local loss = m:loss(batch):item()
      assert.near(sum / kept / values, loss, 1e-5)
      batch.input = pf.tensor(other, i32)
      assert.equal(loss, m:loss(batch):item())
      assert.equal(loss, m:loss({ input = x, target = target }, { mask = mask }):item())
      assert.is_true(m:loss(batch, { huber = 0.1 }):item() < loss)
      batch.mask = pf.zeros(B, L, i32)
      assert.equal(0, m:loss(batch):item())
    end
    -- As many values as positions: no position is hidden there.
    local wide, target = nn.regressor { trunk = trunk(), values = L }, rows(2, B, L)
    local y = wide { input = x, mask = mask }
    assert.equal(y:mean_square(target):item(),
      wide:loss({ input = x, mask = mask, target = target }):item())
  end)

  it("of a language model is its cross entropy, masked or causal", function()
    local m, x = trunk(), ids(1)
    local target = x:totable()
    for b = 1, B do for t = 1, L do if t % 3 > 0 then target[b][t] = -1 end end end
    target = pf.tensor(target, i32)
    assert.equal(m(x):cross_entropy(target):item(), (m:loss { input = x, target = target }):item())
  end)

  it("says what it lacks", function()
    local m, x = trunk(), ids(1)
    assert.error_matches(function() m:loss(x) end, "a batch is a table {input, target}")
    assert.error_matches(function() m:loss { input = x } end, "target must be a tensor, got nil")
    assert.error_matches(function() m:loss { input = x, targets = {} } end, "no target of any task")
    assert.error_matches(function() m:loss { input = x, targets = { outpt = x } } end,
      "no task 'outpt' %(did you mean 'output'%?%)")
    assert.error_matches(function()
      nn.regressor { trunk = trunk() }:loss({ input = x, target = rows(1, B, 2) }, { huber = 1 })
    end, "the output is %[3, 1%], the target %[3, 2%]")
    local r = nn.regressor { trunk = trunk() }
    local zeros = pf.zeros(B, i32) -- of one class the cross entropy would be 0
    assert.error_matches(function() r:loss { input = x, target = zeros } end,
      "the output is estimates; give f32")
    assert.error_matches(function() r:loss { input = x, targets = { output = zeros } } end,
      "the output is estimates; give f32")
    for _, delta in ipairs { 0, -1, 0 / 0, 1 / 0, "x" } do
      assert.error_matches(function()
        r:loss({ input = x, target = rows(1, B) }, { huber = delta })
      end, "huber must be a number above 0")
    end
    for _, weight in ipairs { 0 / 0, 1 / 0, "x" } do
      assert.error_matches(function()
        r:loss({ input = x, targets = { output = rows(1, B) } }, { weights = { output = weight } })
      end, "the weight of 'output' must be a finite number")
    end
    assert.error_matches(function() r:loss { input = x, targets = { output = rows(1, B, 2) } } end,
      "the output is %[3, 1%], the target %[3, 2%] of 'output'")
  end)
end)

describe("several tasks", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function tasks(own)
    local lm = trunk { causal = true }
    return nn.tasks { trunk = lm, own = own, heads = {
      family = nn.chain { nn.pool(), nn.linear { from = D, to = 4 } },
      size = nn.linear { from = D, to = 1 } } }, lm
  end

  it("share one run of their trunk, each with its own head", function()
    local m, lm = tasks "next"
    local x, pass = ids(1), { mask = mask }
    local y, h = m:outputs(x, pass), lm:hidden(x, pass)
    local heads = m:children()
    assert.equal(lm(x, pass):tobytes(), y.next:tobytes())
    assert.equal(heads[2](h, pass):tobytes(), y.family:tobytes())
    assert.equal(heads[3](h):tobytes(), y.size:tobytes())
    assert.equal(y.next:tobytes(), m(x, pass):tobytes())
    assert.equal(h:tobytes(), m:hidden(x, pass):tobytes())
    local only = lm:outputs(x, pass)
    assert.equal(y.next:tobytes(), only.output:tobytes())
    assert(pf.checkpoint.save(folder .. "/run", { model = m }))
    local loaded = assert(pf.checkpoint.model(folder .. "/run")):outputs(x, pass)
    for name, t in pairs(y) do assert.equal(t:tobytes(), loaded[name]:tobytes()) end
  end)

  it("sum their losses by weight, those alone that the batch has a target of", function()
    local m = tasks "next"
    local x = ids(1)
    local targets = { next = x, family = pf.tensor({ 0, 3, -1 }, i32), size = rows(2, B, L) }
    local batch = { input = x, targets = targets }
    local total, each = m:loss(batch, { weights = { size = 0.25 } }), m:losses(batch)
    local y = m:outputs(x)
    assert.equal(y.family:cross_entropy(targets.family):item(), each.family:item())
    assert.equal(y.size:reshape(B, L):mean_square(targets.size):item(), each.size:item())
    assert.near(each.next:item() + each.family:item() + each.size:item() / 4, total:item(), 1e-5)
    batch.targets = { size = targets.size }
    assert.equal(each.size:item(), m:loss(batch):item())
    assert.is_nil(m:losses(batch).next)
    batch.targets = targets
    assert.equal(m:losses({ input = x, target = x }).target:item(), m:loss { input = x,
      target = x }:item())
    local report = pf.check.gradient(function()
      return m:loss(batch, { training = false })
    end, (m:parameters()), { raise = false })
    assert.is_true(report.worst < 1e-2)
  end)

  it("stream and generate by the first of them", function()
    local m, lm = tasks "next"
    assert.are.same(lm:generate { prompt = { 1, 2 }, tokens = 4, temperature = 0 },
      m:generate { prompt = { 1, 2 }, tokens = 4, temperature = 0 })
    assert.is_true(pf.check.streaming(m, ids(1)) < 1e-5)
    local size = nn.tasks { trunk = lm, names = "size", nn.linear { from = D, to = 1 } }
    assert.is_true(pf.check.streaming(size, ids(1)) < 1e-5)
    assert.error_matches(function() tasks():stream() end, "one vector of a whole sequence")
  end)

  it("know their widths, and so does an encoder_decoder as a trunk", function()
    tasks("next"):stream():allow { 0, V - 1 }
    local lm = trunk { causal = true }
    local size = nn.tasks { trunk = lm, names = "size", nn.linear { from = D, to = 3 } }
    assert.error_matches(function() size:stream():allow { 3 } end, "no token 3")
    local both = nn.encoder_decoder { vocab = V, dim = D, layers = 1, heads = 2 }
    local m = nn.classifier { trunk = both, classes = 2 }
    assert.are.same({ B, 2 }, { table.unpack(m(ids(1), { source = ids(2) }):shape()) })
    local above = nn.classifier { trunk = tasks "next", classes = 2 }
    assert.are.same({ B, 2 }, { table.unpack(above(ids(1)):shape()) })
  end)

  it("say what does not fit", function()
    local head = nn.linear { from = D, to = 2 }
    local function fails(text, o)
      local ok, message = pcall(nn.tasks, o)
      assert.is_false(ok)
      assert.truthy(message:find(text, 1, true), message)
    end
    fails("2 names for 1 heads", { trunk(), head, names = { "a", "b" } })
    fails("the trunk is missing: trunk = a layer", { heads = { a = head } })
    fails("there are two called 'a'", { trunk(), head, head, names = { "a", "a" } })
    fails("has no head of its own", { head, own = "a", names = { "b" }, head })
    fails("heads is a table {NAME = layer}", { trunk = trunk(), heads = head })
    local m, x = tasks "next", ids(1)
    assert.error_matches(function()
      m:loss({ input = x, targets = { next = x } }, { weights = { text = 1 } })
    end, "a weight of 'text', but no target of it")
  end)
end)

describe("types of tokens", function()
  it("add a row each; none given they are 0, as in streams", function()
    local m, x = trunk { types = 3, causal = true }, ids(1)
    local types = array.tensor(array.random(2):whole({ B, L }, 0, 2))
    local y = m(x, { types = types })
    assert.is_false(y:tobytes() == m(x):tobytes())
    assert.equal(m(x):tobytes(), m(x, { types = types * 0 }):tobytes())
    local state = m:state { batch = B }
    assert.is_true(support.distance(m:prefill(x, state), m(x)) < 1e-5)
    local layer, h = nn.types { types = 3, dim = D }, rows(1, B, L, D)
    local wanted = h + layer:tensors().weight:embedding(types)
    assert.equal(wanted:tobytes(), layer(h, { types = types }):tobytes())
    assert.error_matches(function() m(x, { types = types:slice(2, 1, 2) }) end,
      "'types' is %[3, 2%], must be %[3, 6%]")
    local long = array.tensor(array.random(5):whole({ 2, 48 }, 0, 2))
    local rows_of = { input = long, target = long, types = long }
    local loss = m:backward_sliced(rows_of, { slices = 3 })
    assert.near(m(rows_of, { training = false }):cross_entropy(long):item(), loss, 1e-5)
  end)
end)

describe("branches", function()
  local function pair(seed)
    pf.seed(seed)
    local gate = { name = "gate", w = pf.randn(D), by_position = true,
      forward = function(self, x) return x * (x * self.w):sigmoid() end }
    return nn.branches { nn.attention { dim = D, heads = 2, causal = true,
      kernel = { features = 8 } }, gate }
  end

  it("are x + f(x), then x + g(x), and stream", function()
    local m, x = pair(1), rows(1, B, L, D)
    local part = m:children()
    local h = x + part[1](x)
    assert.equal((h + part[2](h)):tobytes(), m(x):tobytes())
    assert.is_true(pf.check.streaming(m, x) < 1e-5)
    assert.error_matches(function() nn.branches { part[1] } end, "takes 2 children, 1 given")
  end)

  it("are blocks of a reversible layer, with a layer in Lua among them", function()
    local m, x = nn.reversible { pair(1), pair(2) }, rows(1, B, L, D)
    local inputs = { x }
    for _, t in ipairs((m:parameters())) do inputs[#inputs + 1] = t end
    local report = pf.check.gradient(function(a)
      return m(a, { training = false }):square():sum()
    end, inputs, { raise = false })
    assert.is_true(report.worst < 1e-2, report.worst)
    assert.is_true(pf.check.streaming(m, x) < 1e-5)
  end)
end)

it("gives the same bits for any number of threads", function()
  local script = [[
    pf.seed(7)
    local lm = pf.nn.performer { vocab = 11, dim = 16, layers = 1, heads = 2, dropout = 0.1 }
    local m = pf.nn.tasks { trunk = lm, own = "next", heads = {
      kind = pf.nn.chain { pf.nn.pool { of = "attention", dim = 16 },
                           pf.nn.linear { from = 16, to = 3 } } } }
    local opt = pf.optim.adamw(m, { lr = 1e-2 })
    for step = 1, 3 do
      local x = array.tensor(array.random(step):whole({ 3, 150 }, 0, 10))
      local tape <close> = pf.tape()
      local loss = m:loss { input = x, targets = { next = x, kind = pf.tensor({ 0, 1, 2 },
        { dtype = "i32" }) } }
      tape:backward(loss)
      opt:step { clip = 0.5 }
      print(array.hex(loss))
    end
    for name, t in pf.sorted(m:tensors()) do print(array.hex(t)) end]]
  local first = child.run(script, "{threads = 1}")
  for _, n in ipairs { 2, 4 } do
    assert.is_true(first == child.run(script, ("{threads = %d}"):format(n)), n .. " threads")
  end
end)
