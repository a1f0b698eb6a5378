/**
 * Runs before a package is packed or published, in its folder: compiles it, so that no tarball is without `dist`. Only pnpm
 * may pack: npm leaves `workspace:` and `catalog:` in the manifest, and nobody can install that.
 *
 * Plain JavaScript, because it must also work in a clone where nothing is compiled.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const root = join(import.meta.dirname, '../..')
if (!(process.env['npm_config_user_agent'] ?? '').startsWith('pnpm/')) {
  console.error('Pack and publish with pnpm: `pnpm pack`. npm would leave `workspace:` and `catalog:` in package.json.')
  process.exit(1)
}
const { status, error } = spawnSync(join(root, 'node_modules/.bin/tsc'), ['-b', process.cwd()], { stdio: 'inherit' })
if (error !== undefined) console.error(`The compiler cannot be started: run \`pnpm install\` first. (${error.message})`)
process.exit(status ?? 1)
