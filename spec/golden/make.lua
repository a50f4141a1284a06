-- golden/make.lua - writes spec/golden/VERSION/ with the build that runs it, from the root:
--     PF_CPU=avx2 build/release/bin/performer spec/golden/make.lua
-- A folder that is there is never written again: what it holds is what that version gave. A new
-- version adds its own, with the cases that play.lua has then. PF_CPU=avx2, because there every
-- product is the engine's own: at the generic level a BLAS makes them, with the bits of its
-- version and of the processor.
local pf = require "performer"

local nn = pf.nn
pf.open { threads = 2, seed = 11 }
package.path = "./?.lua;" .. package.path
local play = require "spec.golden.play"
local program = os.getenv "PF_PROGRAM" or "build/release/bin/performer"

local folder = "spec/golden/" .. pf.info().version
if pf.info().cpu ~= "avx2" then pf.exit(2, "run it with PF_CPU=avx2") end
if not os.execute(("mkdir '%s'"):format(folder)) then
  pf.exit(2, folder .. " is there already, and is not written again")
end

local function model_of(options)
  local all = { vocab = 19, dim = 8, layers = 1, heads = 2, hidden = 8, causal = true }
  for key, value in pairs(options) do all[key] = value end
  return nn.performer(all)
end

local models = {
  grown = { dim = 12, layers = 2, hidden = 16, qk_norm = true, decay = 1, conv = 3, bias = true,
            dropout = 0.1, ngrams = { dim = 12, longest = 3, buckets = 8, width = 4 },
            kernel = { name = "softmax", features = 8, seed = 3, redraw = 2 } },
  exact = { kernel = { name = "exact" }, positions = "learned", length = 40 },
  identity = { attention = "identity", positions = "none", norm = "rmsnorm", act = "swiglu" },
  tilted = { kv_heads = 1, positions = "sinusoidal",
             kernel = { name = "softmax_plus", features = 8, seed = 4, redraw = 3 } },
  hadamard = { heads = 1, head_dim = 64,
               kernel = { name = "softmax", rows = "hadamard", features = 64, per_head = false } },
  relu = { kernel = { name = "relu" }, causal = false, reversible = true, tied = false },
  auto = { attention = "auto", length = 64, kernel = { name = "softmax_hyp", features = 8 } },
}

local function write_checkpoint(name)
  local model = model_of(models[name])
  local optimizer = name == "identity" and pf.optim.sgd(model, { lr = 0.1, momentum = 0.9 })
    or pf.optim.adamw(model, { lr = 0.01, decay = 0.1 })
  for step = 1, 5 do play.train(model, optimizer, 10 + step) end
  assert(pf.checkpoint.save(folder .. "/" .. name, { model = model, optimizer = optimizer,
    state = { words = "kept as they are", half = 0.5, list = { 1, 2 } }, tokenizer = "byte" }))
  return model
end

local function write_states()
  local kernels = {
    softmax = pf.kernel.softmax { features = 6, seed = 9 }, exact = "exact", relu = "relu",
    decay = pf.kernel.softmax_hyp { features = 4, seed = 2 }, custom = play.custom(),
  }
  for _, name in ipairs(play.states) do
    local state = pf.attention.state { kernel = kernels[name], heads = 2, head_dim = 4,
      value_dim = 4, decay = name == "decay" and play.decay() or nil }
    play.move(state, 1, 40)
    assert(state:save(("%s/state_%s.safetensors"):format(folder, name)))
  end
end

--- Proteins for a run of `train`.
local function write_data(path)
  local letters, ids = "ACDEFGHIKLMNPQRSTVWY", play.ids(24, 40, 20, 3):totable()
  local file = assert(io.open(path, "w"))
  for i, row in ipairs(ids) do
    for j, id in ipairs(row) do row[j] = letters:sub(id + 1, id + 1) end
    file:write((">protein %d\nM%s\n"):format(i, table.concat(row, "", 1, 20 + i % 20)))
  end
  file:close()
end

--- A run folder of the command, which the spec resumes.
local function write_run()
  write_data(folder .. "/proteins.fasta")
  play.new_run(folder, folder .. "/run", program)
  local path = os.tmpname()
  os.remove(path)
  play.resume(folder, path, program)
  local file = assert(io.open(folder .. "/run_resumed.txt", "w"))
  file:write(play.log(path))
  file:close()
  os.execute(("rm -rf '%s'"):format(path))
end

for _, name in ipairs(play.checkpoints) do
  local model = write_checkpoint(name)
  if play.streams[name] then
    local stream = model:stream()
    stream:feed(play.ids(1, play.streams[name], 19, 21):reshape(-1))
    assert(stream:save(("%s/stream_%s.safetensors"):format(folder, name)))
  end
end
write_states()
write_run()
assert(pf.save(folder .. "/expected.safetensors", play.all(folder),
  { version = pf.info().version, cpu = pf.info().cpu }))
