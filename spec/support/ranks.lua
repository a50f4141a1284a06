-- ranks.lua - what specs of several ranks share: whether there is an MPI, and its mpirun.
local commands = require "spec.support.commands"
local support = require "spec.support"

local ranks = {}

ranks.has_mpi = support.shell(("command -v mpirun && test -e %s/lib/libperformer_mpi.so"):format(
  support.build)) == 0

--- busted's `it` for tests that need both.
function ranks.several(it, pending)
  if ranks.has_mpi then return it end
  return function(name, f) pending(name .. " (no mpirun, or no plugin)", f) end
end

--- For mpirun as root, and of what MPI keeps when it ends; mpirun itself goes without the
-- sanitizer that specs are loaded with, which our program has of its own.
ranks.ROOT = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
  .. "ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 OMP_WAIT_POLICY=passive env -u LD_PRELOAD "

--- mpirun of `n` ranks, each of which runs `performer arguments`; code, stdout, stderr. before:
-- variables; preload: a library of every rank.
function ranks.start(n, arguments, before, preload)
  return support.shell(("%s %s timeout -k 5 120 mpirun --oversubscribe "
    .. "--bind-to none -n %d %s %s/bin/performer %s"):format(ranks.ROOT, before or "", n,
    preload and "env LD_PRELOAD=" .. preload or "", support.build, arguments))
end

--- The same of one rank for each command line of the shell's, or for each list of arguments.
function ranks.apart(...)
  return ranks.ROOT .. "timeout -k 5 120 mpirun --oversubscribe "
    .. "--bind-to none -n 1 " .. table.concat({ ... }, " : -n 1 ")
end
function ranks.each(...)
  local lines = { ... }
  for i, arguments in ipairs(lines) do
    lines[i] = ("%s/bin/performer %s"):format(support.build, arguments)
  end
  return support.shell(ranks.apart(table.unpack(lines)))
end

--- What a run has come to: weights and moments, and the losses of its log.
function ranks.bytes(run)
  local folder = ("%s/%s/"):format(run, support.read(run .. "/LATEST"):match "%S+")
  return { support.read(folder .. "model.safetensors"),
           support.read(folder .. "optimizer.safetensors"), commands.losses(run) }
end

return ranks
