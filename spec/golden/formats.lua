-- golden/formats.lua - writes spec/golden/formats/ with the build that runs it, from the root:
--     PF_CPU=avx2 build/release/bin/performer spec/golden/formats.lua
-- Files whose formats came after 0.1.0: shards of sequences and of text (version 1), and what rows
-- go on from in a checkpoint (carried.safetensors). They are never written again; what comes after
-- them gets a folder of its own.
local pf = require "performer"
local nn = pf.nn

pf.open { threads = 1, seed = 3 }
local folder = "spec/golden/formats"
if pf.file.size(folder .. "/text.txt") then
  pf.exit(2, folder .. " is there already, and is not written again")
end

local lines = {}
for i = 1, 40 do lines[i] = ("line %d of %d, which is no prose\n"):format(i * i, 40 - i) end
assert(pf.file.make_folder(folder))
assert(pf.file.write(folder .. "/text.txt", table.concat(lines)))
assert(pf.data.shard { path = "spec/golden/0.1.0/proteins.fasta", out = folder .. "/sequences",
                       block = 256 })
assert(pf.data.shard { path = folder .. "/text.txt", out = folder .. "/text", block = 256 })

local model = nn.performer { vocab = 11, dim = 8, layers = 1, heads = 2, causal = true,
                             kernel = { features = 8, seed = 5 } }
local function rows(seed)
  local list = {}
  for b = 1, 2 do
    list[b] = {}
    for t = 1, 12 do list[b][t] = (seed + b * 7 + t * t) % 11 end
  end
  return pf.tensor(list, { dtype = "i32" })
end
local state = model:carry { batch = 2 }
local function loss(seed)
  return model:loss({ input = rows(seed), target = rows(seed + 1) }, { carry = state })
end
loss(1)
assert(pf.checkpoint.save(folder .. "/run", { model = model, carried = state, step = 2 }))
assert(pf.save(folder .. "/expected.safetensors",
  { loss = loss(2):reshape(1), ids = rows(2), target = rows(3) }))
