/** `npx -y pnpm@10 consumers`: packs the packages into an empty project, and prints in which ways they work there. */
import { tryPackages } from './consumers.ts'

const results = await tryPackages(({ way, wrong }) => {
  console.log(wrong === undefined ? `works: ${way}` : `FAILS: ${way}\n${wrong}`)
})
if (results.some(({ wrong }) => wrong !== undefined)) process.exitCode = 1
