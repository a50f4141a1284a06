--- listops.lua - the ListOps task of the Long Range Arena at 256 features a head. The published
-- Performer has 18.01 % there, with 2 features; the exact Transformer 36.37 %.
--
--   performer examples/paper/listops.lua [--data listops.tsv]
--
-- Data: made here, by the arena's rules (operators MIN, MAX, MED and SM, sum modulo 10, of 2 to 10
-- arguments, nested); or a table of label, tab, expression in brackets, as of the first ListOps
-- (Nangia and Bowman 2018; its last tenth is for validation).
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          features = "random projections", longest = "tokens of an expression at most",
          shortest = "tokens of an expression at least", depth = "nesting", lr = "learning rate",
          steps = "training steps", examples = "expressions that accuracy is measured on" },
  smoke = { dim = 16, layers = 1, heads = 2, features = 16, shortest = 10, longest = 60, depth = 3,
            batch = 2, steps = 4, lr = 2e-3, examples = 8 },
  quick = { dim = 64, layers = 2, heads = 2, features = 256, shortest = 50, longest = 200,
            depth = 5, batch = 8, steps = 150, lr = 2e-3, examples = 200 },
  full = { dim = 128, layers = 4, heads = 4, features = 256, shortest = 500, longest = 2000,
           depth = 10, batch = 8, steps = 2500, lr = 1e-3, examples = 1000 },
}

-- Tokens: 0 nothing, 1 .. 10 the digits, then what stands between.
local WORDS = { "[MIN", "[MAX", "[MED", "[SM", "[FIRST", "[LAST", "]" }
local IDS, VOCAB = {}, 11 + #WORDS
for i, word in ipairs(WORDS) do IDS[word] = 10 + i end
for digit = 0, 9 do IDS[tostring(digit)] = 1 + digit end

-- ---- data ----

local VALUES = {
  ["[MIN"] = function(v) return math.min(table.unpack(v)) end,
  ["[MAX"] = function(v) return math.max(table.unpack(v)) end,
  ["[MED"] = function(v)
    table.sort(v)
    return (v[(#v + 1) // 2] + v[#v // 2 + 1]) // 2
  end,
  ["[SM"] = function(v)
    local sum = 0
    for _, x in ipairs(v) do sum = sum + x end
    return sum % 10
  end,
}

--- A random expression of at most `depth` levels: writes its tokens and returns its value.
local function expression(depth, tokens, room)
  if depth == 0 or #tokens > room or #tokens > 0 and math.random() < 0.25 then
    local digit = math.random(0, 9)
    tokens[#tokens + 1] = IDS[tostring(digit)]
    return digit
  end
  local word, values = WORDS[math.random(4)], {}
  tokens[#tokens + 1] = IDS[word]
  for i = 1, math.random(2, 10) do values[i] = expression(depth - 1, tokens, room) end
  tokens[#tokens + 1] = IDS["]"]
  return VALUES[word](values)
end

--- A function that gives the next example { tokens, label }.
local function generator(o)
  return function()
    while true do
      local tokens = {}
      local label = expression(o.depth, tokens, o.longest)
      if #tokens >= o.shortest and #tokens <= o.longest then return { tokens, label } end
    end
  end
end

--- Examples of a file: label, tab, expression; round brackets say nothing.
local function read(path, longest)
  local list = {}
  for label, text in kit.read(path):gmatch "(%d)\t([^\n]+)" do
    local tokens = {}
    for word in text:gmatch "[^%s()]+" do
      tokens[#tokens + 1] = IDS[word] or kit.need(nil, ("%s: '%s' is no word of ListOps"):format(
        path, word))
    end
    if #tokens <= longest then list[#list + 1] = { tokens, tonumber(label) } end
  end
  return list
end

--- Two functions: the next examples of training and of validation.
local function sources(o)
  if not o.data then
    kit.made_up "expressions"
    return generator(o), generator(o)
  end
  local list = read(o.data, o.longest)
  local first = #list - #list // 10
  local last = #list
  local held = first
  return function() return list[math.random(first)] end, function()
    held = held % last == 0 and first + 1 or held + 1
    return list[held]
  end
end

--- n examples as ids and mask (n, L) and labels (n).
local function batch(n, draw)
  local examples, longest = {}, 1
  for i = 1, n do
    examples[i] = draw()
    longest = math.max(longest, #examples[i][1])
  end
  local ids, mask, labels = {}, {}, {}
  for i, example in ipairs(examples) do
    ids[i], mask[i], labels[i] = {}, {}, example[2]
    for j = 1, longest do
      ids[i][j] = example[1][j] or 0
      mask[i][j] = example[1][j] and 1 or 0
    end
  end
  local i32 = { dtype = "i32" }
  return { input = pf.tensor(ids, i32), mask = pf.tensor(mask, i32),
           label = pf.tensor(labels, i32) }
end

-- ---- model ----

--- A classifier: what a model makes of the tokens, averaged over those that are there.
local function classifier(o, attention, kernel)
  local body = pf.nn.performer { vocab = VOCAB, dim = o.dim, layers = o.layers, heads = o.heads,
    length = o.longest, causal = false, attention = attention, kernel = kernel }
  return pf.nn.module {
    name = "classifier", body = body, bias = pf.zeros(10),
    weight = pf.randn(10, o.dim) * o.dim ^ -0.5,
    forward = function(self, x, pass)
      local h = self.body:hidden(x, { mask = pass.mask, training = pass.training,
                                      step = pass.step })
      local there = pf.zeros(x:size(1), x:size(2)):copy_(pass.mask):reshape(x:size(1), x:size(2), 1)
      return ((h * there):sum(2) / there:sum(2)):linear(self.weight, { bias = self.bias })
    end,
  }
end

local function logits_of(model, given, pass)
  pass = pass or {}
  pass.mask = given.mask
  return model(given.input, pass)
end

--- The share of labels of fixed examples that a model finds.
local function accuracy(model, examples)
  local right, n = 0, 0
  for _, given in ipairs(examples) do
    local guess, label = logits_of(model, given):argmax(-1):totable(), given.label:totable()
    for i, place in ipairs(guess) do
      right, n = right + (place - 1 == label[i] and 1 or 0), n + 1
    end
    collectgarbage()
  end
  return 100 * right / n
end

--- The share of the commonest label.
local function commonest(examples)
  local count, n, most = {}, 0, 0
  for _, given in ipairs(examples) do
    for _, label in ipairs(given.label:totable()) do
      count[label], n = (count[label] or 0) + 1, n + 1
      most = math.max(most, count[label])
    end
  end
  return 100 * most / n
end

-- ---- what is compared ----

kit.main(function()
  local o = kit.options { name = "listops", sizes = SIZES,
    takes = "two to three hours on two cores",
    about = "ListOps with 256 features a head, with 2, with ReLU, and exact.",
    data = { { "data", "label, tab, expression a line, instead of made-up ones" } } }
  local draw, draw_held = sources(o)
  local held = {}
  for i = 1, math.max(1, o.examples // o.batch) do held[i] = batch(o.batch, draw_held) end
  local cases = {
    { ("softmax, %d features"):format(o.features), "favor",
      { name = "softmax", features = o.features }, "-" },
    { "softmax, 2 features", "favor", { name = "softmax", features = 2 }, "18.01" },
    { "ReLU", "favor", { name = "relu" }, "-" },
    { "exact", "exact", nil, "36.37" },
  }
  local rows, series, found = {}, {}, {}
  for i, case in ipairs(cases) do
    pf.seed(o.seed)
    math.randomseed(o.seed)
    local model, curve = classifier(o, case[2], case[3]), {}
    local _, seconds, broken = kit.train { model = model, label = case[1], steps = o.steps,
      lr = o.lr, points = 6, batch = function() return batch(o.batch, draw) end,
      loss = function(m, given, step)
        return logits_of(m, given, { training = true, step = step }):cross_entropy(given.label)
      end,
      each = function(step) curve[#curve + 1] = { step, accuracy(model, held) } end }
    found[i] = broken and 0 or curve[#curve][2]
    series[i] = { name = case[1], points = curve }
    rows[i] = { case[1], ("%.2f"):format(found[i]), case[4], ("%.1f"):format(seconds) }
  end
  rows[#rows + 1] = { "the commonest label", ("%.2f"):format(commonest(held)), "-", "-" }
  kit.print("expressions of %d to %d tokens, %d steps of %d", o.shortest, o.longest, o.steps,
            o.batch)
  kit.table({ "attention", "right %", "Long Range Arena %", "s" }, rows)
  kit.file(".svg", svg.chart { title = "ListOps", x = "step", y = "right, %", series = series })
  kit.verdict(found[1] > found[2] and found[1] > commonest(held), "%d features have %.2f %%, "
    .. "2 features %.2f %%, exact attention %.2f %%, the commonest label %.2f %%", o.features,
    found[1], found[2], found[4], commonest(held))
end)
