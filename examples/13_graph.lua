--- 13_graph.lua - what papers are about, told from their words and from whom they cite, with few
-- labels: a graph attention network by the recipe of its paper (Velickovic et al. 2018).
--
--   build/release/bin/performer examples/13_graph.lua [FOLDER|-] [epochs] [seed] [gat|gatv2]
-- FOLDER has cora_edges.tsv (a pair of nodes a line, from 0) and cora_nodes.tsv (node, label, train
-- or valid or test or -, its words' numbers from 0), out of Planetoid's data/ind.cora.* (on github,
-- kimiyoung/planetoid); without it, made-up papers. It ends where 100 epochs bring nothing better.
local pf = require "performer"
local folder, seed = arg[1] or "-", tonumber(arg[3] or 1)
local epochs = tonumber(arg[2] or (folder == "-" and 300 or 100000))
pf.open { seed = seed }
math.randomseed(seed)

-- Two graphs: between papers, each of which sees itself too, and from words to papers.
local cites = { path = folder .. "/cora_edges.tsv", first = 0, loops = true, both = true }
local has = { from = {}, to = {}, first = 0, keys = 0, multi = true }
local targets, N, classes = { train = {}, valid = {}, test = {} }, 0, 0
local function add(label, split, words) -- label from 0
  for word in words:gmatch "%d+" do
    has.from[#has.from + 1], has.to[#has.to + 1] = tonumber(word), N
    has.keys = math.max(has.keys, word + 1)
  end
  N, classes = N + 1, math.max(classes, label + 1)
  for name, list in pairs(targets) do list[N] = split == name and label or -1 end
end
local function need(value, why) return value or pf.exit(2, "13_graph.lua: " .. why) end
for line in folder ~= "-" and need(io.open(folder .. "/cora_nodes.tsv")):lines() or next, {} do
  local label, split, words = line:match "^%d+\t(%d+)\t(%S+)\t([%d ]*)$"
  if label then add(math.tointeger(label), split, words) end
end
if folder == "-" then -- half of a paper's words, and most that it cites, are of its subject
  cites = { from = {}, to = {}, first = 0, loops = true, both = true, multi = true }
  for n = 0, 149 do
    local words, own, r = {}, n % 3, math.random
    for i = 1, 6 do words[i] = i <= 3 and own + 3 * r(0, 19) or r(0, 59) end
    add(own, n < 15 and "train" or n < 60 and "valid" or "test", table.concat(words, " "))
    for i = 1, 3 do
      cites.from[3 * n + i], cites.to[3 * n + i] = i < 3 and own + 3 * r(0, 49) or r(0, 149), n
    end
  end
end
cites.nodes, has.nodes = N, N
cites, has = need(pf.graph(cites)), pf.graph(has)
local function layer(o)
  o.value_dropout, o.attention_dropout, o.score = 0.6, 0.6, arg[4] or "gat"
  return pf.nn.graph_attention(o)
end
local model = pf.nn.module { name = "papers", inputs = { "edges" },
  W = pf.randn(has.keys, 64) * (2 / (has.keys + 8)) ^ 0.5,
  first = layer { dim = 64, heads = 8, project = false },
  last = layer { dim = 64, heads = 1, head_dim = classes, input_dropout = 0.6 },
  forward = function(self, x, pass) -- W h is a mean of few rows of W: edges of equal scores
    local h = pf.attention.graph(x:reshape(1, 1, N, 1), pf.zeros(1, 1, has.keys, 1),
      self.W:reshape(1, 1, has.keys, 64), { graph = has, draw = pass.step,
        dropout = pass.training and 0.6 or 0 })
    return self.last(self.first(h:reshape(1, N, 64), pass):elu(), pass)
  end }
for name, list in pairs(targets) do
  local target = pf.tensor({ list }, { dtype = "i32" })
  targets[name] = { input = pf.zeros(1, N, 1), edges = cites, target = target }
end
print(cites)
local optimizer, began = pf.optim.adam(model, { lr = 0.005, decay = 5e-4 }), pf.clock()
local least, most, better, test = math.huge, 0, 0, nil -- of validation; test where both are best
for epoch = 1, epochs do
  local tape = pf.tape()
  tape:backward(model:loss(targets.train, { step = epoch }))
  tape:close()
  optimizer:step()
  local valid = model:evaluate(targets.valid)
  if valid.loss <= least and valid.right >= most then test = model:evaluate(targets.test) end
  if valid.loss <= least or valid.right >= most then better = epoch end
  least, most = math.min(valid.loss, least), math.max(valid.right, most)
  if epoch % 100 == 0 or epoch == epochs or epoch - better == 100 then
    print(("%5d  validation %.1f %%, test %.1f %%, %.0f s"):format(epoch,
      100 * valid.right / valid.tokens, 100 * test.right / test.tokens, pf.clock() - began))
  end
  if epoch - better == 100 then break end
end
