-- golden/play.lua - what the golden files are loaded for: every case opens what a version of
-- this library wrote, goes on with it, and gives the results by name. make.lua keeps those of
-- the version that writes, golden_spec.lua holds every later one against them. A case that a
-- folder holds is never changed; a new one gets a name of its own, and older folders are
-- without it.
local pf = require "performer"

local play = {}

--- Names of the checkpoints in a folder.
play.checkpoints = { "grown", "exact", "identity", "tilted", "hadamard", "relu", "auto" }
--- Streams of these checkpoints' models, and the tokens they were fed before they were saved.
play.streams = { grown = 13, exact = 9 }
--- States of attention alone.
play.states = { "softmax", "exact", "relu", "decay", "custom" }

--- The kernel that the state "custom" is of: a file can't hold a function.
function play.custom()
  return pf.kernel.custom { map = function(x) return x:elu() + 1 end }
end

--- (B, L) ids below n, the same in every version.
function play.ids(B, L, n, seed)
  local rows, x = {}, seed
  for b = 1, B do
    rows[b] = {}
    for t = 1, L do
      x = (x * 1103515245 + 12345) % 2147483648
      rows[b][t] = x // 65536 % n
    end
  end
  return pf.tensor(rows, { dtype = "i32" })
end

--- Step number `step` of a training on ids: its loss.
function play.train(model, optimizer, step)
  local ids = play.ids(3, 25, 19, 100 + step)
  local tape <close> = pf.tape()
  local loss = model(ids:slice(2, 1, 24), { training = true }):cross_entropy(ids:slice(2, 2, 25))
  tape:backward(loss)
  optimizer:step { lr = 0.01, clip = 1 }
  return loss:detach()
end

--- A stream's next tokens, greedy ones and sampled ones, and the logits behind them.
local function take(stream, results, name)
  results[name .. ".logits_then"] = stream:logits()
  local tokens = stream:take(stream:sample(), 8)
  for _, id in ipairs(stream:take(3, 8, { temperature = 0.9, top_k = 9, seed = 5 })) do
    tokens[#tokens + 1] = id
  end
  results[name .. ".tokens"] = pf.tensor(tokens, { dtype = "i32" })
  results[name .. ".logits_last"] = stream:logits()
end

local function play_checkpoint(folder, name, results)
  local loaded = assert(pf.checkpoint.load(folder .. "/" .. name))
  local model = loaded.model
  results[name .. ".logits"] = model(play.ids(2, 11, 19, 7))
  if model:options().causal then
    local stream = model:stream()
    stream:feed(play.ids(1, 11, 19, 8):reshape(-1))
    take(stream, results, name)
    stream:close()
  end
  for step = 1, 3 do
    results[("%s.loss_%d"):format(name, step)] = play.train(model, loaded.optimizer, step)
  end
  results[name .. ".logits_trained"] = model(play.ids(2, 11, 19, 7))
end

--- A stream that was saved after some tokens. That of "grown", as 0.1.0 wrote it, is without the
--- last ids of its n-gram layer, which then begins anew.
function play.load_stream(folder, name)
  local model = assert(pf.checkpoint.model(folder .. "/" .. name))
  return assert(model:load_stream(("%s/stream_%s.safetensors"):format(folder, name)))
end

--- One position (1, 2, 1, 4) of queries (1), keys (2) and values (3).
local function position(which, t)
  local list, x = {}, 31 * which + 7 * t
  for i = 1, 8 do
    x = (x * 1103515245 + 12345) % 2147483648
    list[i] = (x // 65536 % 2001 - 1000) / 512
  end
  return pf.tensor(list):reshape(1, 2, 1, 4)
end

--- Positions first .. last as (1, 2, L, 4).
local function positions(which, first, last)
  local parts = {}
  for t = first, last do parts[#parts + 1] = position(which, t) end
  return pf.concat(parts, 3)
end

--- Moves a state over positions first .. last: all but the last three at once.
function play.move(state, first, last)
  local parts = { state:prefill(positions(1, first, last - 3), positions(2, first, last - 3),
    positions(3, first, last - 3)) }
  for t = last - 2, last do
    parts[#parts + 1] = state:step(position(1, t), position(2, t), position(3, t))
  end
  return pf.concat(parts, 3)
end

--- Defines the layers of the checkpoint "of_lua", as a script did that trained it with 0.1.0, where
--- the attention of a custom kernel was a layer of Lua's. Returns the kernels' layers.
function play.define_of_lua()
  local function layer(options)
    options.dim, options.heads, options.causal, options.kernel = 8, 2, true, play.custom()
    return function() return pf.nn.attention(options) end
  end
  local makers = {
    golden_plain = layer { name = "golden_plain", decay = 1, bias = true },
    golden_turned = layer { name = "golden_turned", rotary = true, qk_norm = true, dropout = 0.1 },
  }
  for name, maker in pairs(makers) do pf.nn.define(name, maker) end
  return makers
end

--- One step more of a training on positions, and what the model gives then.
function play.train_of_lua(model, optimizer)
  local x = positions(4, 1, 6):permute(1, 3, 2, 4):reshape(1, 6, 8)
  local results = { y = model(x) }
  do
    local tape <close> = pf.tape()
    tape:backward(model(x):square():mean())
    optimizer:step { lr = 0.01, clip = 1 }
  end
  results.y_trained = model(x)
  return results
end

--- The heads' decays of the state "decay".
function play.decay() return pf.tensor { 0.5, 0.125 } end

function play.load_state(folder, name)
  local kernel = name == "custom" and play.custom() or nil
  return assert(pf.attention.load_state(("%s/state_%s.safetensors"):format(folder, name),
    { kernel = kernel }))
end

--- What `performer train` is told for a run folder; everything that decides its bits is said.
play.train_words = "--steps 6 --dim 8 --layers 1 --heads 2 --hidden 8 --attention softmax " ..
  "--features 8 --length 32 --batch 4 --lr 0.004 --warmup 2 --decay 0.1 --clip 1 --dropout 0.1 " ..
  "--redraw 4 --positions rotary --act gelu --norm layernorm --conv 4 --ngrams 2 --buckets 8 " ..
  "--head-decay 1 --qk-norm on --seed 1 --threads 1 --eval-every 3 --log-every 1 --keep 1 " ..
  "--group ngrams:rows=all"

--- Runs a command; raises with what it said when it fails.
local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local said = pipe:read "a"
  if not pipe:close() then error(("%s: %s"):format(command, said), 2) end
end

--- Trains on the folder's proteins in a fresh run folder.
function play.new_run(folder, path, program)
  run(("%s train --data %s/proteins.fasta --out '%s' %s"):format(program, folder, path,
    play.train_words))
end

--- A copy, at `path`, of the run folder that `performer train` wrote, trained on to step 9.
function play.resume(folder, path, program)
  run(("cp -r %s/run '%s'"):format(folder, path))
  run(("%s train --resume '%s' --steps 9 --threads 1"):format(program, path))
end

--- The numbers of a run's log, bit by bit, as text.
function play.log(path)
  local lines = {}
  for line in io.lines(path .. "/log.jsonl") do
    local record = assert(pf.json.decode(line))
    for _, name in ipairs { "loss", "norm", "valid_loss", "train_loss" } do
      local value = record[name]
      if name == "valid_loss" and value then -- of one batch, a mean in f32 at first
        value = string.unpack("f", string.pack("f", value))
      end
      lines[#lines + 1] = value and ("%d %s %a"):format(record.step, name, value) or nil
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Everything a folder holds, played: {name = tensor}.
function play.all(folder)
  local results = {}
  for _, name in ipairs(play.checkpoints) do play_checkpoint(folder, name, results) end
  for name in pf.sorted(play.streams) do
    take(play.load_stream(folder, name), results, "stream_" .. name)
  end
  for _, name in ipairs(play.states) do
    results["state_" .. name .. ".out"] = play.move(play.load_state(folder, name), 41, 60)
  end
  results.libm = play.libm()
  return results
end

--- Functions of the C library as this machine has them, at some hundred places each: where
--- these bits differ, so may the last bits of everything that they are used for.
function play.libm()
  local list, x = {}, {}
  for i = 1, 300 do
    x[i] = 0.37 + i / 37
    for _, f in ipairs { math.sin, math.cos, math.log, function(v) return math.exp(-v) end,
                         function(v) return 10000 ^ (-v / 9) end } do
      -- The low half of the double as a whole number that a float holds.
      list[#list + 1] = string.unpack("<I3", string.pack("<d", f(x[i])))
    end
  end
  local powers = pf.pow(pf.tensor(x), pf.tensor(-0.73))
  local logs = {} -- logf(n): the terms are exactly 1
  for n = 1, 40 do logs[n] = pf.zeros(n):logsumexp(1):reshape(1) end
  return pf.concat({ pf.tensor(list), powers, table.unpack(logs) }, 1)
end

return play
