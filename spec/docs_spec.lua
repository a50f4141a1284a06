-- docs_spec.lua - the texts for readers are true: what the guides show runs, the ten steps are
-- there, and the site is made of all of it without a link that leads nowhere, and finds things.
local lfs = require "lfs"
local support = require "spec.support"

local GUIDES = "examples/guides/"

local function names(folder, pattern)
  local list = {}
  for name in lfs.dir(folder) do
    if name:find(pattern) then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

--- The blocks of a language in a text.
local function blocks(text, language)
  local list = {}
  for block in ("\n" .. text):gmatch("\n```" .. language .. "\n(.-\n)```") do
    list[#list + 1] = block
  end
  return list
end

describe("guides", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  for _, name in ipairs(names(GUIDES, "%.md$")) do
    it(name .. " shows Lua that runs", function()
      local shown = blocks(support.read(GUIDES .. name), "lua")
      assert.is_true(#shown > 0)
      local program = {}
      for i, block in ipairs(shown) do program[i] = "do\n" .. block .. "end\n" end
      support.write(folder .. "/guide.lua", table.concat(program))
      local code, out, err = support.performer(("'%s/guide.lua'"):format(folder))
      assert.equal(0, code, err)
      local _, lines = out:gsub("\n", "")
      assert.is_true(lines >= 1, out)
      assert.falsy(out:find "nan" or out:find "%-?inf%f[%A]", out)
    end)

    it(name .. " names commands and options that exist", function()
      local helps = {}
      for _, block in ipairs(blocks(support.read(GUIDES .. name), "sh")) do
        for line in block:gmatch "[^\n]+" do
          local command, words = line:gsub("#.*", ""):match "performer (%l+)(.*)"
          if command then
            local help = helps[command] or select(2, support.performer(command .. " --help"))
            helps[command] = help
            for option in words:gmatch "%-%-[%w-]+" do
              assert.truthy((help .. " "):find(option:gsub("%p", "%%%0") .. "[%s%]]"),
                            command .. " has no " .. option)
            end
          end
        end
      end
    end)
  end

  it("show C that compiles", function()
    local count = 0
    for _, name in ipairs(names(GUIDES, "%.md$")) do
      for _, block in ipairs(blocks(support.read(GUIDES .. name), "c")) do
        support.write(folder .. "/block.c", ("#include <performer.h>\n#include <stdio.h>\n"
          .. "int main(void) {\n%s    return status < 0;\n}\n"):format(block))
        local code, _, err = support.shell(("env -u LD_PRELOAD cc -std=c99 -Wall -Werror "
          .. "-fsyntax-only -Iengine/include '%s/block.c'"):format(folder))
        assert.equal(0, code, err)
        count = count + 1
      end
    end
    assert.is_true(count > 0)
  end)

  -- Zeros in place of the defaults are valid, and mean the portable kernels.
  it("begin a host's options with the defaults, as the hosts do", function()
    local shown = { "README.md" }
    for _, name in ipairs(names(GUIDES, "%.md$")) do shown[#shown + 1] = GUIDES .. name end
    for _, folder_of in ipairs { "examples/hosts/", "examples/hosts/server/" } do
      for _, name in ipairs(names(folder_of, "%.[ch]p?p?$")) do
        shown[#shown + 1] = folder_of .. name
      end
    end
    local count = 0
    for _, name in ipairs(shown) do
      for value in support.read(name):gmatch "%f[%w_]pf_options%s+[%w_]+%s*=%s*([^;]+);" do
        count = count + 1
        assert.truthy(value:find "PF_OPTIONS_DEFAULT" or value:find "pf_options_default", name)
      end
    end
    assert.is_true(count >= 3)
  end)

  it("lead to files that exist, as every page does, and the tutorial's ten steps", function()
    local code, said = support.shell "lua5.4 .ci/check_links.lua"
    assert.equal(0, code, said)
    local steps = 0
    for number in support.read "examples/README.md":gmatch "\n| %[(%d+)%. " do
      steps = steps + 1
      assert.equal(steps, tonumber(number))
    end
    assert.equal(10, steps)
  end)
end)

describe("the site", function()
  local out
  setup(function() out = support.folder() end)
  teardown(function() support.remove(out) end)

  it("is made of what is there, and every link leads somewhere", function()
    local code, said, err = support.performer((".ci/site/site.lua '%s'"):format(out))
    assert.equal("", err)
    assert.equal(0, code)
    assert.truthy(said:find "index%.html: %d+ pages\n$", said)
    local pages, texts = names(out, "%.html$"), {}
    assert.is_true(#pages > 60)
    for _, page in ipairs(pages) do texts[page] = support.read(out .. "/" .. page) end
    for _, page in ipairs(pages) do
      local html = texts[page]
      for _, kind in ipairs { "href", "src" } do
        for link in html:gmatch(("%%s%s=\"([^\"]*)\""):format(kind)) do
          local file, anchor = link:match "^([^#]*)#?(.*)$"
          if not link:find "^https?:" then
            local there = file == "" and page or file
            assert.equal("file", lfs.attributes(out .. "/" .. there, "mode"), page .. ": " .. link)
            assert.truthy(anchor == "" or texts[there]:find(('id="%s"'):format(anchor), 1, true),
                          page .. ": " .. link)
          end
        end
      end
      assert.falsy(html:find('src="http', 1, true), page .. ": something from elsewhere")
    end
  end)

  it("has every example, header, command and guide", function()
    local frame = support.read(out .. "/index.html")
    local contents = dofile ".ci/site/contents.lua"
    local of = {}
    for _, group in ipairs(contents) do
      for _, entry in ipairs(group) do of[entry[1] or ""] = true end
    end
    for _, place in ipairs { { "examples/", "%.lua$" }, { GUIDES, "%.md$" },
                             { "engine/include/", "%.h$" } } do
      for _, name in ipairs(names(place[1], place[2])) do
        assert.truthy(of[place[1] .. name], place[1] .. name)
      end
    end
    for _, name in ipairs(names("scripts", "%.lua$")) do
      assert.truthy(frame:find("command-" .. name:gsub("lua$", "html"), 1, true), name)
    end
  end)

  it("finds functions, options and words", function()
    local json = require("performer").json
    local text = support.read(out .. "/sections.js"):match "^const SECTIONS = (.*);\n$"
    local sections, found = assert(json.decode(text)), {}
    for _, part in ipairs(sections) do
      found[part[4]] = ("%s#%s"):format(part[1], part[3])
      assert.equal(5, #part)
    end
    assert.equal("performer-h.html#pf_engine_open", found.pf_engine_open)
    assert.equal("command-train.html#--sliced", found["--sliced"])
    assert.equal("lua-tensors.html#pf.zeros", found["pf.zeros"])
    local told = support.read(out .. "/words.html")
    for word, meant in pairs { clone = "t:detach", ["--n-predict"] = "--tokens", len = "#t" } do
      assert.is_truthy(told:find(("<code>%s</code></td>"):format(word), 1, true), word)
      assert.is_truthy(told:find(meant, 1, true))
    end
  end)

  it("marks what was looked for, and no part of an escaped letter", function()
    if support.shell "command -v node" ~= 0 then return pending "node is not here" end
    support.write(out .. "/mark.js", [[
      const node = () => new Proxy(function () {}, { apply: () => "", set: () => true,
        get: (t, name) => name === "value" ? "lt <b" : node() });
      global.document = { getElementById: node, querySelector: node, addEventListener() {} };
      global.location = { search: "" };
      global.SECTIONS = [];
      const text = require("fs").readFileSync(process.argv[2], "utf8");
      const show = "console.log(excerpt('a lt <b> & amp', ['lt', '<b', '&']))";
      new Function(text + "\n" + show)();]])
    local code, told, err = support.shell(("node %s/mark.js .ci/site/search.js"):format(out))
    assert.equal(0, code, err)
    assert.equal("a <mark>lt</mark> <mark>&lt;b</mark>&gt; <mark>&amp;</mark> amp\n", told)
  end)
end)
