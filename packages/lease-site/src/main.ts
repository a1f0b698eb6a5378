/** `node … src/main.ts <folder>`: builds the site into this folder. */
import { cp } from 'node:fs/promises'
import { buildSite } from '#src/build.ts'

const [folder] = process.argv.slice(2)
if (folder === undefined) {
  console.error('name the folder into which the site is built')
  process.exit(2)
}
await using site = await buildSite()
await cp(site.folder, folder, { recursive: true })
console.log(`${site.pages.length} pages in ${folder}`)
