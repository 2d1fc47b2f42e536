load_processed = load_viz = None
