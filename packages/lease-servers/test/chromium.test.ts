import { expect } from 'chai'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findChromium } from 'lease-servers'

describe('a Chromium for tests', () => {
  const before: NodeJS.ProcessEnv = {}
  let bin: string

  beforeEach(() => {
    for (const name of ['PATH', 'CHROME_PATH']) before[name] = process.env[name]
    delete process.env['CHROME_PATH']
    bin = mkdtempSync(join(tmpdir(), 'chromium-'))
    process.env['PATH'] = bin
  })
  afterEach(() => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
    rmSync(bin, { recursive: true, force: true })
  })

  function program(name: string, script: string): string {
    const path = join(bin, name)
    writeFileSync(path, `#!/bin/sh\n${script}\n`)
    chmodSync(path, 0o755)
    return path
  }

  async function failure(): Promise<string> {
    return findChromium().then(
      (path) => `found ${path}`,
      (error: unknown) => (error as Error).message,
    )
  }

  it('is the one on PATH, and not one that only says how to get it', async () => {
    program('chromium', 'echo "Command requires the chromium snap"; exit 1')
    const chrome = program('google-chrome', 'echo "Google Chrome 150.0.7871.100"')
    expect(await findChromium()).to.equal(chrome)
  })

  it('is the one that CHROME_PATH names', async () => {
    process.env['CHROME_PATH'] = program('mine', '')
    expect(await findChromium()).to.equal(join(bin, 'mine'))
    process.env['CHROME_PATH'] = join(bin, 'none')
    expect(await failure()).to.equal(`there is no program at CHROME_PATH=${join(bin, 'none')}`)
  })

  it('is never missing silently: the failure says what to do', async () => {
    const message = await failure()
    expect(message).to.include('no Chromium on this machine: install it (apt-get install chromium), or set CHROME_PATH')
    expect(message).to.include('apt-get is not on this machine')
    expect(message).not.to.include('\n')
  })

  it('is installed from Debian by root, after an update where apt knows no packages yet', async () => {
    if (process.getuid?.() !== 0) {
      program('apt-get', 'exit 1')
      expect(await failure()).to.include('only root may install packages')
      return
    }
    const log = join(bin, 'log')
    const made = join(bin, 'chromium')
    program(
      'apt-get',
      `case "$*" in *update*) echo update >>'${log}'; exit 0 ;; esac
echo install >>'${log}'
[ "$(/usr/bin/wc -l <'${log}')" -lt 2 ] && { echo "E: Unable to locate package" >&2; exit 100; }
echo '#!/bin/sh' >'${made}'; echo 'echo Chromium 156.0' >>'${made}'; /bin/chmod +x '${made}'`,
    )
    expect(await findChromium()).to.equal(made)
    expect(readFileSync(log, 'utf8').trim().split('\n')).to.deep.equal(['install', 'update', 'install'])
  })
})
