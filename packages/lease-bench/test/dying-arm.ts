/** In place of `arm-main.ts`: starts, and ends when it is to measure. */
process.on('message', () => {
  process.stderr.write('my last words\n', () => process.exit(3))
})
process.send?.({ ready: true })
