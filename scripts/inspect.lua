--- performer inspect - what a checkpoint or a safetensors file holds, without loading it.
local cli = require "kit.cli"
local describe = require "kit.describe"
local lfs = require "lfs"
local pf = require "performer"
local runs = require "kit.runs"

local ROWS = { { "json", "flag", nil, "one JSON object on stdout" } }

local function line(format, ...) cli.write(cli.plain(format:format(...)), "\n") end

-- ---- the summary ----

local function show_parts(info)
  local parts, fixed, memory = describe.parts(info.tensors)
  line ""
  line("parameters  %s", runs.grouped(info.params))
  for _, part in ipairs(parts) do
    line("  %-18s %14s  %5.1f %%", part[1], runs.grouped(part[2]),
      100 * part[2] / math.max(info.params, 1))
  end
  if memory > 0 then
    line("  all but the n-gram memory, of which a token reads a few rows: %s",
      runs.grouped(info.params - memory))
  end
  if fixed > 0 then line("  drawn or fixed beside them: %s", runs.grouped(fixed)) end
  if info.trainable then
    line("  frozen: %d of them; adapters: %d", info.trainable.frozen, info.trainable.adapters)
  end
end

--- How far training has come, by the checkpoint's own state.
local function show_training(state, optimizer)
  local settings = state.settings or {}
  line("trained     step %s%s%s%s", state.step or "?",
    settings.steps and (" of %d"):format(settings.steps) or "",
    state.seconds and (", %.1f seconds"):format(state.seconds) or "",
    state.finished and ", finished" or ", goes on with train --resume")
  if state.smooth then line("            training loss %.4f", state.smooth) end
  if state.best then
    line("            best held-out loss in passing %.4f, step %s", state.best,
      state.best_step or "?")
  end
  if optimizer then line("optimizer   %s", tostring(optimizer.type)) end
end

local function show_data(state, tokenizer)
  local settings, data = state.settings or {}, state.data
  local path = settings.data
  if type(path) == "table" then
    path = ("%s and %d more"):format(tostring(path[1]), #path - 1)
  end
  if path then
    line("data        %s%s", tostring(path), data and data.tokens and
      (", %s training tokens, %s held out"):format(runs.grouped(data.tokens),
      runs.grouped(data.held_out or 0)) or "")
  end
  if tokenizer then line("tokenizer   %s", tostring(tokenizer)) end
end

--- The files of a folder with their sizes; and their sum, folders in it counted.
local function files_of(folder)
  local list, sum = {}, 0
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode, bytes = lfs.attributes(path, "mode"), lfs.attributes(path, "size")
    if mode == "file" then
      list[#list + 1], sum = { name, bytes }, sum + bytes
    elseif mode == "directory" and name ~= "." and name ~= ".." then
      sum = sum + select(2, files_of(path))
    end
  end
  table.sort(list, function(a, b) return a[2] > b[2] or a[2] == b[2] and a[1] < b[1] end)
  return list, sum
end

local function show_files(path, info)
  if not info.checkpoint then return end
  local list, sum = files_of(info.checkpoint)
  line("on disk     %s", runs.size(sum))
  for _, file in ipairs(list) do line("  %-26s %10s", file[1], runs.size(file[2])) end
  if lfs.attributes(path, "mode") == "directory"
    and not lfs.attributes(path .. "/manifest.json", "mode") then
    line("  the whole folder           %10s", runs.size((select(2, files_of(path)))))
  end
end

--- What a reader wants to know first.
local function show_summary(path, info)
  local state = info.state and info.state.state or {}
  if info.checkpoint then
    line("checkpoint  %s%s", info.checkpoint, state.step and (", step %d"):format(state.step) or "")
    line("model       %s", describe.model(info.config, info.params))
  end
  show_parts(info)
  if info.state then
    line ""
    show_training(state, info.state.optimizer)
    local tokenizer = info.tokenizer
    show_data(state, type(tokenizer) == "table" and tokenizer.type or tokenizer)
  end
  show_files(path, info)
end

--- Numbers of the parameters that a checkpoint's model holds still, and of its adapters.
local function trained_of(info)
  local config = type(info.config) == "table" and info.config or {}
  if not config.frozen and not config.adapters then return nil end
  local still, frozen, adapters = {}, 0, 0
  for _, name in ipairs(config.frozen or {}) do still[name] = true end
  for _, tensor in ipairs(info.tensors) do
    local n = 1
    for _, rows in ipairs(tensor.shape) do n = n * rows end
    if still[tensor.name] then frozen = frozen + n end
    if tensor.name:find "%f[%w]adapter%.[ab]$" then adapters = adapters + n end
  end
  return { frozen = frozen, adapters = adapters }
end

local function show(path, info)
  show_summary(path, info)
  line ""
  for _, tensor in ipairs(info.tensors) do
    line("%-44s %-4s %-18s %s", tensor.name, tensor.dtype,
      "[" .. table.concat(tensor.shape, ", ") .. "]", runs.size(tensor.bytes))
  end
  line("%s, %s, %s", cli.count(#info.tensors, "tensor"), cli.count(info.params, "parameter"),
    runs.size(info.bytes))
  for key, value in pf.sorted(info.metadata or {}) do line("%s: %s", key, tostring(value)) end
end

local function main()
  local parser = cli.parser("inspect", "Shows what a checkpoint or safetensors file holds.", {
    "performer inspect runs/proteins",
    "performer inspect model.safetensors --json",
  })
  parser:argument("path", "run folder, checkpoint folder or .safetensors file")
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  local info = cli.need(pf.inspect(options.path))
  info.trainable = trained_of(info)
  pf.json.list(info.tensors)
  for _, tensor in ipairs(info.tensors) do pf.json.list(tensor.shape) end
  if options.json then return cli.print_json(info) end
  show(options.path, info)
end

cli.alone("inspect", main)
