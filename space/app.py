"""The app as a Hugging Face Space, with the reference weights."""

from heph_vl.app import page, prepare, serve

if __name__ == "__main__":  # the processes that simulate the gallery import this file
    serve(page(prepare()), host="0.0.0.0", port=7860)
