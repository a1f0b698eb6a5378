/** The program of a real Chromium, for tests of pages. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { findBinaries, systemFolders, type Binaries } from './binaries.ts'
import { updateDebian } from './debian.ts'
import { installed, output } from './process.ts'
import { report } from './progress.ts'

/**
 * The path of Chromium: the one in CHROME_PATH, or one of this machine. Where there is none, and this process may install Debian packages,
 * it installs the package: unpacking it, as is done with servers, is not enough, because it loads fonts and libraries from fixed folders.
 *
 * @throws with what to do when there is none
 */
export async function findChromium(): Promise<string> {
  const given = process.env['CHROME_PATH']
  if (given !== undefined && given !== '') {
    if (existsSync(given)) return given
    throw new Error(`there is no program at CHROME_PATH=${given}`)
  }
  const { binaries } = await findBinaries({
    title: 'Chromium',
    program: 'chromium',
    suits: (answer) => /^Chromium \d/.test(answer),
    origins: { system: async () => systemFolders('/usr/lib/chromium'), debian: installChromium },
    hint: 'install it (for example apt-get install chromium) or set CHROME_PATH to the program of a Chrome or Chromium',
  })
  return join(binaries.bin, 'chromium')
}

async function installChromium(): Promise<readonly Omit<Binaries, 'origin'>[]> {
  if (!(await installed('apt-get'))) throw new Error('apt-get is not on this machine')
  if (process.getuid?.() !== 0) throw new Error('only root may install packages')
  report("installing chromium from Debian's archive, about 110 MB")
  // Another process of a test run may be installing as well.
  const patient = ['-q', '-o', 'DPkg::Lock::Timeout=300']
  const names = ['chromium', 'fonts-dejavu-core']
  const install = (): Promise<string> =>
    output('apt-get', [...patient, 'install', '--yes', '--no-install-recommends', ...names], {
      env: { DEBIAN_FRONTEND: 'noninteractive' },
    })
  try {
    await install()
  } catch {
    await updateDebian() // it knows no packages yet, or old versions of them
    await install()
  }
  return systemFolders('/usr/bin')
}
