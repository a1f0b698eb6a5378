/** The program of a real Chromium, for tests of pages. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { systemFolders } from './binaries.ts'
import { updateDebian } from './debian.ts'
import { reasonIn } from './failures.ts'
import { installed, output } from './process.ts'
import { report } from './progress.ts'

/** What it is called on PATH. */
const PROGRAMS = ['chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'] as const

/**
 * The path of Chromium: the one in CHROME_PATH, or one of this machine. Where there is none, and this process may install Debian packages,
 * it installs the package: unpacking it, as is done with servers, is not enough, because it loads fonts and libraries from fixed folders.
 *
 * @throws with a message of one line that says what to do when there is none
 */
export async function findChromium(): Promise<string> {
  const given = process.env['CHROME_PATH']
  if (given !== undefined && given !== '') {
    if (existsSync(given)) return given
    throw new Error(`there is no program at CHROME_PATH=${given}`)
  }
  const found = await onThisMachine()
  if (found !== undefined) return found
  const reason = await install().then(
    () => 'it was installed, and does not run',
    (error: unknown) => reasonIn(error instanceof Error ? error.message : String(error)),
  )
  const made = await onThisMachine()
  if (made !== undefined) return made
  const hint = 'install it (apt-get install chromium), or set CHROME_PATH to the program of a Chrome or Chromium'
  throw new Error(`no Chromium on this machine: ${hint} (${reason})`)
}

async function onThisMachine(): Promise<string | undefined> {
  for (const program of PROGRAMS) {
    for (const { bin } of systemFolders()) {
      const path = join(bin, program)
      if (!existsSync(path)) continue
      const answer = await output(path, ['--version']).catch(() => '') // Ubuntu has one that only says: use snap
      if (/^(Chromium|Google Chrome) \d/.test(answer)) return path
    }
  }
  return undefined
}

async function install(): Promise<void> {
  if (!(await installed('apt-get'))) throw new Error('apt-get is not on this machine')
  if (process.getuid?.() !== 0) throw new Error('only root may install packages')
  report("installing chromium from Debian's archive, about 110 MB")
  // Another process of a test run may be installing as well.
  const patient = ['-q', '-o', 'DPkg::Lock::Timeout=300']
  const names = ['chromium', 'fonts-dejavu-core']
  const add = (): Promise<string> =>
    output('apt-get', [...patient, 'install', '--yes', '--no-install-recommends', ...names], {
      env: { DEBIAN_FRONTEND: 'noninteractive' },
    })
  try {
    await add()
  } catch {
    await updateDebian() // it knows no packages yet, or old versions of them
    await add()
  }
}
