-- manual_spec.lua - man pages and shell completion (bindings/manual.lua) have every command and
-- every option that its --help has; mandoc and the shells, where they are, find nothing to say.
local support = require "spec.support"

describe("the manual", function()
  local folder, names = nil, {}

  setup(function()
    folder = support.folder()
    local code, out, err = support.performer("bindings/manual.lua scripts " .. folder)
    assert.equal(0, code, out .. err)
    local _, help = support.performer "--help"
    for name in help:match "commands:\n(.-)\n\n":gmatch "  (%S+) [^\n]*" do
      names[#names + 1] = name
    end
  end)
  teardown(function() support.remove(folder) end)

  local function there(program) return support.shell("command -v " .. program) == 0 end

  --- The long options in the help of a command.
  local function options_of(name)
    local _, help = support.performer(name .. " --help")
    local list = {}
    for line in help:gmatch "\n   (%-[^\n]*)" do list[#list + 1] = line:match "%-%-([%w-]+)" end
    return list
  end

  it("has a page for each command, with all of its options", function()
    assert.is_true(#names > 8)
    local main = support.read(folder .. "/man/man1/performer.1")
    for _, name in ipairs(names) do
      local page = support.read(("%s/man/man1/performer-%s.1"):format(folder, name))
      assert.is_truthy(main:find(".It Xr performer-" .. name .. " 1", 1, true), name)
      for _, option in ipairs(options_of(name)) do
        local item = "Fl \\-" .. option:gsub("%-", "\\-")
        assert.is_truthy(page:find(item, 1, true), name .. " --" .. option)
      end
    end
  end)

  it("completes commands, options and what they may be", function()
    local bash = support.read(folder .. "/bash-completion/completions/performer")
    local zsh = support.read(folder .. "/zsh/site-functions/_performer")
    local fish = support.read(folder .. "/fish/vendor_completions.d/performer.fish")
    for _, name in ipairs(names) do
      for _, option in ipairs(options_of(name)) do
        local words = bash:match("\n      " .. name .. "%) options='([^']*)'")
        assert.is_truthy((words .. " "):find("--" .. option .. " ", 1, true), name)
        assert.is_truthy(zsh:find("'%*?%-%-" .. option:gsub("%-", "%%-") .. "[=%[]"), option)
        assert.is_truthy(fish:find(("from %s' -l %s "):format(name, option), 1, true), option)
      end
    end
    for words, text in pairs { ["train%-%-format%)"] = "auto fasta text", -- a list of cli.add's
                               ["train%-%-norm%)"] = "layernorm rmsnorm", -- the engine's choices
                               ["train%-%-attention%)"] = "favor exact", -- names of the command's
                               ["convert%-%-attention%)"] = "favor exact",
                               ["bench%-%-kernel%)"] = "softmax softmax_hyp" } do
      assert.matches(words .. " options='" .. text, bash)
    end
    assert.matches("%-%-attention=%[[^%]]*%]:name:%(favor exact ", zsh)
    assert.matches("from train' %-l attention %-x %-a 'favor exact ", fish)
  end)

  it("is clean to mandoc and to the shells", function()
    if there "mandoc" then
      local _, out = support.shell(("cd %s/man/man1 && mandoc -Tlint *.1"):format(folder))
      assert.equal("", out)
    end
    for shell, file in pairs { bash = "bash-completion/completions/performer",
                               zsh = "zsh/site-functions/_performer",
                               fish = "fish/vendor_completions.d/performer.fish" } do
      if there(shell) then
        local code, _, err = support.shell(("env -u LD_PRELOAD %s -n %s/%s"):format(shell, folder,
          file))
        assert.equal(0, code, err)
      end
    end
  end)

  it("is the same a second time, on the day that it is told", function()
    local again = support.folder()
    local command = "SOURCE_DATE_EPOCH=86400 " .. support.build
      .. "/bin/performer bindings/manual.lua scripts "
    for _, out in ipairs { folder, again } do assert.equal(0, (support.shell(command .. out))) end
    assert.equal(0, (support.shell(("diff -r %s %s"):format(folder, again))))
    assert.matches("^%.Dd January 2, 1970\n", support.read(again .. "/man/man1/performer.1"))
    support.remove(again)
  end)
end)
