-- cluster_spec.lua - examples/cluster: slurm.sh as Slurm runs it, with mpirun and scontrol in their
-- places that say how they were called; and what mpijob.yaml starts, by scripts/again.
local lfs = require "lfs"

local support = require "spec.support"

local HOME = lfs.currentdir()
local read, write, shell = support.read, support.write, support.shell

describe("examples/cluster", function()
  local folder, path

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    lfs.mkdir(folder)
    lfs.mkdir(folder .. "/bin")
    path = function(name) return folder .. "/" .. name end
  end)

  after_each(function() support.remove(folder) end)

  --- A program of that name that writes its words, and then does as told.
  local function program(name, body)
    write(path("bin/" .. name), ("#!/bin/sh\nprintf '%%s\\n' \"$*\" >>%s\n%s\n"):format(path(name),
      body))
    os.execute("chmod +x " .. path("bin/" .. name))
  end

  local function said(name)
    local file = io.open(path(name))
    if not file then return nil end
    local text = file:read "a"
    file:close()
    return text
  end

  --- Options behind `performer train` among `words`, each of which there must be.
  local function check_options(words)
    local _, help = shell(("%s/bin/performer train --help"):format(support.build))
    local n = 0
    for option in words:match "performer train (.*)":gmatch "%-%-[%w-]+" do
      assert.is_truthy(help:find(option .. "%f[^%w-]"), option)
      n = n + 1
    end
    assert.is_true(n >= 6, words)
  end

  describe("slurm.sh", function()
    --- As on the first of two hosts with three cores each; its exit code. job: lines that run it as
    -- $job.
    local function slurm(job)
      local variables = "SLURM_NNODES=2 SLURM_CPUS_PER_TASK=3 SLURM_JOB_ID=77"
      return shell(("export HOME=%s PERFORMER=%s PATH=%s:$PATH %s; "
        .. "job=%s/examples/cluster/slurm.sh; %s"):format(folder, HOME, path "bin", variables, HOME,
        job or "bash $job"))
    end

    it("starts a rank a host by scripts/again, with all its cores", function()
      program("mpirun", ("printf '%%s %%s\\n' $OMP_NUM_THREADS $PATH >>%s"):format(path "seen"))
      program("scontrol", "")
      local code, _, err = slurm()
      assert.equal(0, code, err)
      local words = said "mpirun"
      assert.is_truthy(words:find("-n 2 --map-by ppr:1:node --bind-to none performer train", 1,
                                  true), words)
      assert.is_truthy(words:find("--threads 3 --out " .. folder .. "/runs/a --continue", 1, true),
                       words)
      check_options(words)
      assert.matches("^3 " .. (HOME .. "/build/release/bin"):gsub("%p", "%%%0") .. ":", said "seen")
      for name in words:gmatch "%-x (%S+)" do
        assert.is_truthy(("PATH OMP_NUM_THREADS"):find(name))
      end
      assert.is_nil(said "scontrol")
    end)

    it("saves at Slurm's signals, and queues again when its time is over", function()
      -- mpirun, which hands USR1 to its ranks and waits for them
      program("mpirun", ("trap 'printf saved >%s; exit 130' USR1\n: >%s\n"
        .. "while :; do sleep 0.05; done"):format(path "saved", path "started"))
      program("scontrol", "")
      for _, signal in ipairs { "USR1", "TERM" } do
        for _, name in ipairs { "saved", "started", "scontrol" } do os.remove(path(name)) end
        local code, _, err = slurm(("bash $job & job=$!; while ! [ -e %s ]; do sleep 0.05; done; "
          .. "kill -%s $job; wait $job"):format(path "started", signal))
        assert.equal(130, code, err)
        assert.equal("saved", said "saved")
        assert.equal(signal == "USR1" and "requeue 77\n" or nil, said "scontrol")
      end
    end)

    it("does not queue again what has finished, or failed by itself", function()
      program("scontrol", "")
      for _, code in ipairs { 0, 2 } do
        program("mpirun", "exit " .. code)
        assert.equal(code, (slurm()))
      end
      -- A run that is done just as the signal comes
      program("mpirun", ("trap 'exit 0' USR1\n: >%s\nwhile :; do sleep 0.05; done"):format(
        path "started"))
      local code = slurm(("bash $job & job=$!; while ! [ -e %s ]; do sleep 0.05; done; "
        .. "kill -USR1 $job; wait $job"):format(path "started"))
      assert.equal(0, code)
      assert.is_nil(said "scontrol")
    end)

    it("asks Slurm for what that needs", function()
      local text = read "examples/cluster/slurm.sh"
      for _, line in ipairs { "--requeue", "--open-mode=append", "--signal=B:USR1@120",
                              "--ntasks-per-node=1" } do
        assert.is_truthy(text:find("\n#SBATCH " .. line .. "\n", 1, true), line)
      end
      assert.is_nil(text:match "\n%f[^\n]*[^#\n][^\n]*\n#SBATCH") -- before the first command
    end)
  end)

  describe("mpijob.yaml", function()
    local text = read "examples/cluster/mpijob.yaml"

    --- The items of the launcher's list `args`.
    local function arguments()
      local list, indent = {}, text:match "\n( +)args:\n"
      for line in text:match "\n +args:\n(.-)\n +resources:":gmatch "[^\n]+" do
        local item = line:match("^" .. indent .. "  %- (.*)$")
        assert.is_truthy(item, line)
        list[#list + 1] = item:gsub("%s+#.*$", ""):match '^"?(.-)"?$'
      end
      return list
    end

    it("starts mpirun by scripts/again, which finds the run's folder among its words", function()
      assert.is_truthy(text:find("/opt/performer/share/performer/scripts/again, --]", 1, true))
      local words = table.concat(arguments(), " "):gsub("/runs/a", path "run")
      lfs.mkdir(path "run")
      write(path "run/LOST", "")
      program("mpirun", ("[ -e %s ] && exit 3; exit 0"):format(path "run/LOST")) -- again removes it
      local code, _, err = shell(("PATH=%s:$PATH %s/scripts/again -- %s"):format(path "bin", HOME,
        words))
      assert.equal(0, code, err)
      assert.equal("mpirun " .. said "mpirun", words .. "\n")
      check_options(words)
    end)

    it("has as many workers as ranks, lanes for all, and its run where both look", function()
      local words = " " .. table.concat(arguments(), " ") .. " "
      local ranks = tonumber(words:match " %-n (%d+) ")
      local worker = text:match "\n    Worker:\n(.*)$"
      assert.equal(ranks, tonumber(worker:match "replicas: (%d+)"))
      assert.is_true(tonumber(words:match " %-%-lanes (%d+) ") >= ranks)
      assert.equal(words:match " %-%-threads (%d+) ", worker:match 'cpu: "(%d+)"')
      local launcher = text:match "\n    Launcher:\n(.-)\n    Worker:"
      for _, part in ipairs { launcher, worker } do -- rank 0 writes there, again looks for LOST
        assert.is_truthy(part:find("mountPath: /runs", 1, true))
      end
      assert.is_truthy(launcher:find "restartPolicy: OnFailure")
      assert.is_truthy(words:find(" --continue ", 1, true))
      assert.is_true(tonumber(launcher:match "terminationGracePeriodSeconds: (%d+)") >= 60)
    end)
  end)
end)
